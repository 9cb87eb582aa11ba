"""Separators: the tokens of a row's parts are those of the whole text."""

from typing import Any

import pytest

from ptm_lightning.data.separator import separate
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.testing_texts import document

TEXTS = [document(i) for i in range(40)] + ["\nTL;DR: a b", "\n\nSummary:\n", " => <end>"]


@pytest.mark.parametrize("algorithm", ["gpt2", "bpe", "wordpiece", "unigram", "xlnet"])
@pytest.mark.parametrize("text", ["\nTL;DR:", "\n\nTL;DR:", " =>", "\nSummary:\n", "<|endoftext|>", " = "])
def test_parts_are_tokenized_as_the_whole(algorithm: Any, text: str):
    tokenizer = raw(train_tokenizer(TEXTS, algorithm, 400, 128))

    def encode(whole: str) -> list[int]:
        return list(tokenizer.encode(whole, add_special_tokens=False).ids)

    joins = {"gpt2": " ", "bpe": " ", "unigram": " \n", "xlnet": " \n", "wordpiece": ""}
    if text[-1] in joins[algorithm]:  # it is a part of the next word
        with pytest.raises(UserError, match="the tokenizer joins its end with what follows"):
            separate(tokenizer, text)
        return
    separator = separate(tokenizer, text)
    space = "" if text[-1].isspace() else " "
    for before, after in zip(TEXTS[:40], reversed(TEXTS[:40]), strict=True):
        parts = [*encode(before), *separator.ids, *encode(separator.lead + after)]
        assert parts == encode(before + text + space + after)


@pytest.mark.parametrize("text", ["TL;DR:", "x", "\n"])
def test_what_has_no_tokens_of_its_own_is_refused(text: str):
    with pytest.raises(UserError, match=r"--data.separator .*: the tokenizer gives it no tokens of its own"):
        separate(raw(train_tokenizer(TEXTS, "wordpiece", 400, 128)), text)
