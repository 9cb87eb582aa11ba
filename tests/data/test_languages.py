"""Language tokens of multilingual tokenizers, in each family's own way."""

import pytest

from ptm_lightning.data.languages import language_token, language_tokens
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError


def tokenizer_with(*tokens: str):
    return train_tokenizer(["the cat sat on the mat"] * 9, "bpe", 300, 64, tokens)


def test_codes_are_found_among_the_special_tokens():
    assert language_tokens(tokenizer_with("en_XX", "deu_Latn", "__fr__", "<en>", "<extra_id_0>")) == {
        "en_XX": "en_XX",
        "deu_Latn": "deu_Latn",
        "fr": "__fr__",
    }
    assert language_tokens(tokenizer_with()) == {}


def test_a_language_is_enough_where_it_is_written_in_one_way():
    known = tokenizer_with("en_XX", "zho_Hans", "zho_Hant", "__fr__")
    assert [language_token(known, code, "--x") for code in ("en", "en_XX", "fr", "zho_Hant")] == [
        "en_XX", "en_XX", "__fr__", "zho_Hant",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--data.source_language zho: the model knows it as zho_Hans and zho_Hant"):
        language_token(known, "zho", "--data.source_language")
    with pytest.raises(UserError, match=r"--x xx: the model doesn't know it; its languages are en_XX, fr, zho_Hans, z"):
        language_token(known, "xx", "--x")
