"""Rows of fields, against what the tokenizer itself does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptm_lightning.data.template import Template, fit_fields
from ptm_lightning.data.tokenizer_training import train_tokenizer

TEXTS = ["the cat sees a dog", "dogs", "a much longer text about the garden and the river behind the house", "x"]
PAIRS = ["near the river", "a dog follows the old horse behind the house and never finds it", "no", "yes a dog"]


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "xlnet"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return train_tokenizer(TEXTS + PAIRS, request.param, 320, 64)


def rows(tokenizer: Any, texts: list[list[str]], max_length: int) -> Any:
    template = Template.of(tokenizer, len(texts))
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in field] for field in texts]
    flat = np.array([id_ for row in zip(*ids, strict=True) for field in row for id_ in field])
    lengths = np.array([[len(one) for one in row] for row in zip(*ids, strict=True)])
    starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
    return template.rows(flat, starts, fit_fields(lengths, max_length - len(template)))


@pytest.mark.parametrize("max_length", [9, 12, 64])
@pytest.mark.parametrize("texts", [[TEXTS], [TEXTS, PAIRS], [PAIRS, TEXTS]], ids=["single", "pair", "swapped"])
def test_rows_are_the_tokenizers_own(tokenizer: Any, texts: list[list[str]], max_length: int):
    ours = rows(tokenizer, texts, max_length)
    theirs = tokenizer(
        *texts, padding=True, truncation="longest_first", max_length=max_length, return_tensors="pt",
        return_token_type_ids=True,
    )  # fmt: skip
    assert ours["input_ids"].equal(theirs["input_ids"])
    assert ours["document_ids"].equal(theirs["attention_mask"])
    types = ours.get("token_type_ids", ours["input_ids"] * 0)
    real = theirs["attention_mask"] == 1
    assert types[real].equal(theirs["token_type_ids"][real])
    assert ours["padded"] == bool((~real).any())


def test_positions_begin_at_the_first_real_token(tokenizer: Any):
    ours = rows(tokenizer, [TEXTS], 64)
    for positions, real in zip(ours["position_ids"], ours["document_ids"] > 0, strict=True):
        assert positions[real].tolist() == list(range(int(real.sum())))


def longest_first(a: int, b: int, budget: int) -> tuple[int, int]:
    """One token at a time from the longer field, from the second if they are equal."""
    while a + b > budget:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@pytest.mark.parametrize("reference", [longest_first])
def test_the_longest_field_is_shortened_first(reference: Callable[[int, int, int], tuple[int, int]]):
    lengths = np.array([(a, b) for a in range(12) for b in range(12)])
    for budget in (1, 2, 7, 8, 15, 30):
        kept = fit_fields(lengths, budget)
        assert (kept.sum(axis=1) == np.minimum(lengths.sum(axis=1), budget)).all()
        assert (kept <= lengths).all()
        naive = [reference(a, b, budget) for a, b in lengths.tolist()]
        assert np.abs(kept - np.array(naive)).max() <= 1  # who gives the odd token is the library's rule, tested above
