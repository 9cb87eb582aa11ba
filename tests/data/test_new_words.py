"""Words that become tokens, for each kind of tokenizer, by what the tokenizers themselves make of text."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.new_words import choose_words, extend_tokenizer, kind_of, read_words
from ptm_lightning.data.tokenizer import load_tokenizer, ordinary_ids
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError

GENERAL = ["the cat sees a dog in the garden, and the dog follows the cat to the river"]
DOMAIN = ["the debhelper and the dpkg-buildpackage: debhelper, reportbug, debhelper compat 13"] * 3 + [
    "the reportbug sees a kernel in the garden; reportbug!"
]
KINDS = ["wordpiece", "bpe", "gpt2", "unigram", "xlnet"]


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, corpus: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer(corpus.read_text().split("\n\n"), request.param, 800, 64)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_words_that_save_most_come_first(tokenizer: PreTrainedTokenizerFast) -> None:
    """A count of the words as everybody sees them, each cut by itself after a space."""
    counts = Counter(word for text in DOMAIN for word in re.findall("[a-z]+", text))
    alone = len(pieces(tokenizer, "a"))
    saved = {
        word: count * (len(pieces(tokenizer, f"a {word}")) - alone - 1) for word, count in counts.items() if count > 1
    }
    del saved["buildpackage"]  # it stands after a hyphen, and is cut in another way there
    forms = choose_words(DOMAIN, tokenizer, 99)
    assert len(set(forms)) == len(forms)
    ranked = [word for form in forms if (word := form.lstrip("Ġ▁")) in saved]
    assert ranked[:2] == sorted((word for word in saved if saved[word]), key=lambda word: -saved[word])[:2]
    assert ranked[0] == "debhelper"
    assert choose_words(DOMAIN, tokenizer, 1) == forms[:1]
    assert {form.lstrip("Ġ▁") for form in forms} <= counts.keys() - {"kernel"}, "it occurs once"


def test_a_new_word_is_one_token_and_other_text_is_as_before(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    forms = choose_words(DOMAIN, tokenizer, 5)
    extended, new_tokens = extend_tokenizer(tokenizer, forms)
    assert len(extended) == len(tokenizer) + len(new_tokens)
    assert set(forms) <= set(new_tokens)
    for form in forms:
        marked = form[0] in "Ġ▁" or kind_of(tokenizer.backend_tokenizer) == "WordPiece"
        text = "the " + form.lstrip("Ġ▁") if marked else f"the-{form}"
        assert pieces(extended, text)[-1] == form
    for text in GENERAL:
        assert extended(text)["input_ids"] == tokenizer(text)["input_ids"]
    for token, ids in new_tokens.items():
        assert extended.convert_tokens_to_ids(token) >= len(tokenizer)
        assert max(ids) < len(tokenizer), "pieces are old tokens"
        assert "".join(t.removeprefix("##") for t in tokenizer.convert_ids_to_tokens(ids)) == token
    assert [extended.convert_tokens_to_ids(token) for token in new_tokens] == list(range(len(tokenizer), len(extended)))
    for text in DOMAIN:
        assert extended.decode(extended(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
        assert len(extended(text)["input_ids"]) < len(tokenizer(text)["input_ids"])
    assert set(new_tokens) <= {extended.convert_ids_to_tokens(int(i)) for i in ordinary_ids(extended)}
    extended.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))(DOMAIN)["input_ids"] == extended(DOMAIN)["input_ids"]


def test_bpe_words_that_share_pieces_are_all_single_tokens() -> None:
    tokenizer = train_tokenizer(["ab abab ba cd cdcd abcd dc"] * 9, "bpe", 270, 64)
    words = ["abcdab", "cdab", "abcdcd", "dcab", "cdabab", "babcd", "ababab"]
    forms = [f"Ġ{word}" for word in words]
    extended, new_tokens = extend_tokenizer(tokenizer, forms)
    for form, word in zip(forms, words, strict=True):
        assert pieces(extended, f" {word}") == [form]
    assert set(forms) <= {*new_tokens, *tokenizer.get_vocab()}


def test_a_file_of_words(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("debhelper\n\nthe\nreportbug\ndebhelper\n", encoding="utf-8")
    assert [form.lstrip("Ġ▁") for form in read_words(file, tokenizer)] == ["debhelper", "reportbug"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("debhelper\nwith spaces\n", "words.txt:2: 'with spaces' is 2 words to the tokenizer; give single ones"),
        ("\u05d0\u05d1\n", "words.txt:1: '\u05d0\u05d1' has characters that the tokenizer doesn't know"),
    ],
)
def test_a_bad_file_of_words(text: str, message: str, tmp_path: Path, corpus: Path) -> None:
    tokenizer = train_tokenizer(corpus.read_text().split("\n\n"), "wordpiece", 800, 64)
    file = tmp_path / "words.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_words(file, tokenizer)
    with pytest.raises(UserError, match="can't be read; give a number, or a file"):
        read_words(tmp_path / "nowhere.txt", tokenizer)


def other_kinds() -> dict[str, Any]:
    level = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    spaces = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    spaces.pre_tokenizer = pre_tokenizers.Whitespace()
    behind = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    behind.pre_tokenizer = pre_tokenizers.Metaspace()
    behind.add_special_tokens(["<extra_id_0>"])
    return {"WordLevel": level, "BPE": spaces, "behind its vocabulary": behind}


@pytest.mark.parametrize("what", ["WordLevel", "BPE", "behind its vocabulary"])
def test_a_kind_that_cannot_be_extended_is_refused(what: str) -> None:
    with pytest.raises(UserError, match=rf"--data.new_words: .*{what}.*leave it out"):
        kind_of(other_kinds()[what])
