import random
import sys
import unicodedata
from collections.abc import Callable
from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.normalizers import Lowercase, Replace, StripAccents
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, WhitespaceSplit

from ptm_lightning.data import cached_tokenizer
from ptm_lightning.data.cached_tokenizer import CachedTokenizer, find_cut
from ptm_lightning.data.tokenizer import plain
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer

TEXTS = list(topics.values())[:60]
TEXT = "a tale of two  words"
Make = Callable[[], Tokenizer]


def trained(algorithm: Algorithm) -> Tokenizer:
    return plain(train_tokenizer(TEXTS, algorithm, 900, 64))


def published(*steps: normalizers.Normalizer) -> Tokenizer:
    """As T5's, ALBERT's and XLNet's files have it, but for the map of characters."""
    made = trained("unigram")
    made.normalizer = normalizers.Sequence([Replace("``", '"'), normalizers.NFKD(), *steps])
    made.pre_tokenizer = pre_tokenizers.Sequence([WhitespaceSplit(), Metaspace()])
    return made


KNOWN: dict[str, Make] = {
    "wordpiece": lambda: trained("wordpiece"),
    "bpe": lambda: trained("bpe"),
    "gpt2": lambda: trained("gpt2"),
    "unigram": lambda: trained("unigram"),
    "xlnet": lambda: trained("xlnet"),
    "published": lambda: published(StripAccents(), Lowercase()),
}


@pytest.fixture(scope="module", params=KNOWN)
def known(request: pytest.FixtureRequest) -> Tokenizer:
    return KNOWN[request.param]()


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def split(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_the_ids_are_the_tokenizers_own(known: Tokenizer) -> None:
    cached = CachedTokenizer(known)
    for texts in (TEXTS[:30], TEXTS[20:], ["", "\x01", " \n ", "[MASK] <mask> <pad>"], [""]):
        assert split(*cached.encode(texts)) == cached.encode_each(texts) == expected(known, texts)
    assert cached.encode_each([]) == []
    assert len(known.encode(TEXTS[0]).ids) > 3 * len(find_cut(known)("the same")) > 3  # it does cut


def test_each_word_is_tokenized_once(known: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    learn = CachedTokenizer._learn

    def note(cached: CachedTokenizer, pieces: list[str]) -> None:
        seen.extend(pieces)
        learn(cached, pieces)

    monkeypatch.setattr(CachedTokenizer, "_learn", note)
    cached = CachedTokenizer(known)
    cached.encode(["one two one", "two three"])
    cached.encode(["three one"])
    assert len(seen) == len(set(seen))
    assert sorted({piece.strip() for piece in seen}) == ["one", "three", "two"]


def test_no_character_at_a_border_changes_the_ids(known: Tokenizer) -> None:
    """All characters there are: after a space, before one, alone, and in a word."""
    characters = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]
    ideographs = {c for c in characters if unicodedata.name(c, "").startswith(("CJK UNIFIED", "HANGUL SYLL", "TANGUT"))}
    characters = [c for i, c in enumerate(characters) if c not in ideographs or i % 50 == 0]
    texts = [f"a {c}b c{c} d {c} e{c}\n{c}f" for c in characters]
    assert len(texts) > 40_000
    ids, lengths = CachedTokenizer(known).encode(texts)
    encodings = known.encode_batch(texts, add_special_tokens=False)
    wrong = [
        hex(ord(c))
        for c, found, encoding in zip(characters, split(ids, lengths), encodings, strict=True)
        if found != encoding.ids
    ]
    assert wrong == []


def test_runs_of_any_characters_give_the_same_ids(known: Tokenizer) -> None:
    drawn = random.Random(1)
    letters = "ab's 's''``t.,!? \n  \n\t\u00a0\u3000\u200b\u0301¨\u00e4我们😀[<"
    texts = ["".join(drawn.choices(letters, k=drawn.randrange(12))) for _ in range(20_000)]
    assert split(*CachedTokenizer(known).encode(texts)) == expected(known, texts)


def test_what_it_remembers_is_bounded(known: Tokenizer) -> None:
    cached = CachedTokenizer(known, memory=20_000)
    texts = [f"{a}x{b}" for a in range(60) for b in range(20)]
    sizes = []
    for i in range(0, len(texts), 40):
        assert split(*cached.encode(texts[i : i + 40])) == expected(known, texts[i : i + 40])
        sizes.append(len(cached._numbers))
    assert max(sizes) < 250
    assert sizes[-1] < max(sizes)  # forgotten on the way


def with_token(tokenizer: Tokenizer, **settings: bool) -> Tokenizer:
    tokenizer.add_tokens([AddedToken("two", **settings)])
    return tokenizer


def bpe(**settings: object) -> Tokenizer:
    made = trained("bpe")
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def spaces_as_tokens(*steps: normalizers.Normalizer) -> Tokenizer:
    made = trained("unigram")
    made.normalizer = normalizers.Sequence([*steps, Replace(Regex(r"\s+"), " ")])
    return made


UNSURE: dict[str, Make] = {
    "a token that takes the space before it along": lambda: with_token(trained("wordpiece"), lstrip=True),
    "a token in byte-level text": lambda: with_token(trained("bpe")),
    "dropout of merges": lambda: bpe(model=models.BPE({"a": 0}, [], dropout=0.5)),
    "a prefix space": lambda: bpe(pre_tokenizer=ByteLevel(add_prefix_space=True)),
    "another rule": lambda: bpe(pre_tokenizer=ByteLevel(add_prefix_space=False, use_regex=False)),
    "nothing that splits": lambda: bpe(pre_tokenizer=None),
    "a normalizer before bytes": lambda: bpe(normalizer=Lowercase()),
    "a rule with spaces": lambda: published(Replace(Regex("a b"), "c")),
    "a replacement with a space": lambda: published(Replace("a", " ")),
    "a step over words": lambda: published(normalizers.Strip()),
    "marks stripped before spaces become tokens": lambda: spaces_as_tokens(normalizers.NFKD(), StripAccents()),
    "words taken away": lambda: spaces_as_tokens(Replace("\u2603", "")),
    "spaces around ideographs": lambda: spaces_as_tokens(normalizers.BertNormalizer()),
    "digits before words": lambda: bpe(pre_tokenizer=pre_tokenizers.Sequence([Digits(), WhitespaceSplit()])),
}


@pytest.mark.parametrize("make", UNSURE.values(), ids=UNSURE)
def test_a_text_stays_whole_where_cutting_isnt_sure(make: Make) -> None:
    assert find_cut(make())(TEXT) == [TEXT]


def test_special_tokens_that_are_read_in_the_text_keep_it_whole() -> None:
    tokenizer = trained("bpe")
    assert find_cut(tokenizer)(TEXT) != [TEXT]
    tokenizer.encode_special_tokens = False
    assert find_cut(tokenizer)(TEXT) == [TEXT]


def test_a_map_of_characters_is_trusted_with_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    description = published().to_str()
    mapped = description.replace('{"type":"NFKD"}', '{"type":"Precompiled","precompiled_charsmap":"x"}')

    class Described:
        encode_special_tokens = True

        def to_str(self) -> str:
            return mapped

    cut = find_cut(Described())  # type: ignore[arg-type]
    assert cut("a word\nmore") == ["a", "word", "more"]
    assert cut("a w\u00f6rd") == ["a w\u00f6rd"]


def test_groups_larger_than_one_call(known: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_tokenizer, "_TOGETHER", 3)
    assert split(*CachedTokenizer(known).encode(TEXTS[:5])) == expected(known, TEXTS[:5])
