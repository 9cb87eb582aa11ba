import random
from bisect import bisect_right
from collections.abc import Callable
from pydoc_data.topics import topics

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.normalizers import NFKD, Lowercase, Replace, StripAccents
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit

from ptm_lightning.data import sentence_tokens
from ptm_lightning.data.cached_tokenizer import CachedTokenizer
from ptm_lightning.data.sentence_tokens import encode_sentences
from ptm_lightning.data.sentences import spans
from ptm_lightning.data.tokenizer import plain
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer

PAGES = list(topics.values())[:40]
TEXTS = [*PAGES[:3], *(part for page in PAGES[3:] for part in page.split("\n\n") if part.strip())]
Make = Callable[[], Tokenizer]


def trained(algorithm: Algorithm, **settings: object) -> Tokenizer:
    made = plain(train_tokenizer(TEXTS, algorithm, 900, 64))
    for name, value in settings.items():
        setattr(made, name, value)
    return made


MAKE: dict[str, Make] = {
    "wordpiece": lambda: trained("wordpiece"),
    "bytes with trimmed offsets": lambda: trained("bpe"),
    "bytes with spaces": lambda: trained("gpt2"),
    "bytes trimmed but the first": lambda: trained("gpt2", post_processor=processors.ByteLevel(add_prefix_space=True)),
    "bytes, untrimmed": lambda: trained("gpt2", post_processor=processors.ByteLevel(trim_offsets=False)),
    "unigram": lambda: trained("unigram"),
    "published": lambda: trained(
        "unigram",
        normalizer=normalizers.Sequence([Replace("``", '"'), NFKD(), StripAccents(), Lowercase()]),
        pre_tokenizer=pre_tokenizers.Sequence([WhitespaceSplit(), Metaspace()]),
    ),
    "spaces after NFKD": lambda: trained(
        "unigram", normalizer=normalizers.Sequence([NFKD(), Replace(Regex(r"\s+"), " ")])
    ),
    "never cut": lambda: trained("bpe", pre_tokenizer=None),
}


@pytest.fixture(scope="module", params=MAKE)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKE[request.param]()


def expected(tokenizer: Tokenizer, texts: list[str], starts: list[list[int]]) -> tuple[list[int], list[int]]:
    """By the offsets of each text."""
    ids: list[int] = []
    sizes: list[int] = []
    for text, begins in zip(texts, starts, strict=True):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        last = [max(end - 1, start) for start, end in encoding.offsets]
        sentence = [bisect_right(begins[1:], place) for place in last]
        assert sentence == sorted(sentence)
        ids += encoding.ids
        sizes += [sentence.count(i) for i in range(len(begins))]
    return ids, sizes


def check(tokenizer: Tokenizer, texts: list[str], starts: list[list[int]]) -> None:
    cached = CachedTokenizer(tokenizer)
    for _ in range(2):  # once anew, once from memory
        ids, sizes = encode_sentences(cached, texts, starts)
        assert (ids.tolist(), sizes.tolist()) == expected(tokenizer, texts, starts)


def starts_of(texts: list[str]) -> list[list[int]]:
    return [[start for start, _ in spans(text)] for text in texts]


def test_sentences_of_real_text(tokenizer: Tokenizer) -> None:
    check(tokenizer, TEXTS, starts_of(TEXTS))


NASTY = [
    "One. Two\nThree! 天下雨了。我们在家。 好。\n你好。 Four.",
    "  Spaces first.   Three of them.\n\n  \n Lines.\n\nMore lines.\n",
    "Ends with a space. ",
    "No break here.☃ A snowman. ☃ begins. \U0001f600 too.",
    "E\u0301tude. E\u0301tude. \u0301 alone. \u0301a.",
    "One. \u00a8two. \u037a three. \ufc5e four. \u2014 Five. \u00bd six. \ufb01 seven. \u2026 Eight.",
    "\u00a8",
    "A\u00a0hard space. \u3000A wide one. A\ttab. \u200bNone.",
    "▁ One. ▁Two. ▁",
    "[MASK]. [MASK] One. <mask> two. </s> three.",
    "\x01. \x01 \x01. One.",
    "``Quotes.'' ``Two.'' 'Three.' 's four.",
]


def test_sentences_of_nasty_text(tokenizer: Tokenizer) -> None:
    check(tokenizer, NASTY, starts_of(NASTY))


def test_starts_at_any_character_of_any_text(tokenizer: Tokenizer) -> None:
    drawn = random.Random(1)
    letters = "aB's 's''``t.,!?  \n \n  \u00a0\u3000\u200b\u0301\u00a8\u00e4\u037a\ufb01我们😀[<▁"
    texts = ["".join(drawn.choices(letters, k=drawn.randrange(1, 24))) for _ in range(2_000)]
    places = [[i for i, character in enumerate(text) if not character.isspace()] or [0] for text in texts]
    starts = [sorted(drawn.sample(some, drawn.randrange(1, len(some) + 1))) for some in places]
    check(tokenizer, texts, starts)


def test_every_character_begins_a_sentence(tokenizer: Tokenizer) -> None:
    texts = [
        f"a. {c}b" + d + c
        for c in map(chr, [*range(33, 0x500), *range(0x500, 0xD800, 23), *range(0xF900, 0x10000)])
        for d in ("\n", "  ")
    ]
    starts = [[0, 3, len(text) - 1] for text in texts]
    check(tokenizer, texts, starts)


def test_real_encodings_are_for_other_texts_alone(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    by_offsets = sentence_tokens._by_offsets

    def note(given: Tokenizer, texts: list[str], starts: list[list[int]]) -> object:
        seen.extend(texts)
        return by_offsets(given, texts, starts)

    monkeypatch.setattr(sentence_tokens, "_by_offsets", note)
    texts = ["One. Two.", "好。好。", "Three.\nFour."]
    check(tokenizer, texts, starts_of(texts))
    assert set(seen) == set(texts if tokenizer.pre_tokenizer is None else texts[1:2])


def test_no_texts(tokenizer: Tokenizer) -> None:
    ids, sizes = encode_sentences(CachedTokenizer(tokenizer), [], [])
    assert len(ids) == len(sizes) == 0
