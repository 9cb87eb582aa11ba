"""XLNet's spans and order, against loops written from the paper."""

from typing import Any

import numpy as np
import pytest

from ptm_lightning.data.noise import Ints, Purpose, Tokens, hash64, uniform
from ptm_lightning.data.permutation import factorisation_order, target_spans

SIZES = [1, 2, 5, 6, 7, 29, 30, 31, 64, 333]


def tokens_of(sizes: list[int], first: int = 0) -> Tokens:
    example = np.repeat(np.arange(len(sizes)), sizes)
    return Tokens(np.zeros_like(example), example, first + np.arange(len(example)), np.full_like(example, 3))


def spans_by_loop(tokens: Tokens, longest: int, one_in: int, seed: int) -> list[list[tuple[int, int]]]:
    """Section A.1: a length L, then a span of L tokens within (K L) tokens; and so on to the text's end."""

    def number(place: int, purpose: Purpose) -> float:
        return float(uniform(seed, int(tokens.draw[place]), int(tokens.offset[place]), purpose)[0])

    spans = []
    for example in np.unique(tokens.example):
        places = np.flatnonzero(tokens.example == example).tolist()
        cursor, mine = 0, []
        for place in places:  # the i-th context is drawn at the i-th token
            if cursor >= len(places):
                break
            length = 1 + int(number(place, Purpose.TARGET_LENGTH) * longest)
            context = length * one_in
            if cursor + context > len(places):
                context = len(places) - cursor
                length = int(context / one_in + number(place, Purpose.TARGET_ROUNDING))
                if cursor == 0 and length == 0:
                    length = 1
            start = cursor + int(number(place, Purpose.TARGET_PLACE) * (context - length + 1))
            mine.append((places[0] + start, length))
            cursor += context
        spans.append(mine)
    return spans


@pytest.mark.parametrize(("longest", "one_in"), [(5, 6), (1, 2), (3, 7), (8, 2)])
def test_spans_equal_the_papers_loop(longest: int, one_in: int):
    for seed in range(20):
        tokens = tokens_of(SIZES, first=1000 * seed)
        expected = np.zeros(len(tokens.example), dtype=bool)
        for spans in spans_by_loop(tokens, longest, one_in, seed):
            assert all(length <= longest for _, length in spans)
            for start, length in spans:
                expected[start : start + length] = True
        np.testing.assert_array_equal(target_spans(tokens, longest=longest, one_in=one_in, seed=seed), expected)


def test_one_token_in_six_is_a_target_and_each_example_has_one():
    long = target_spans(tokens_of([500] * 400), longest=5, one_in=6, seed=0)
    assert long.mean() == pytest.approx(1 / 6, abs=0.002)
    cut = target_spans(tokens_of([17] * 10_000), longest=5, one_in=6, seed=0)  # most contexts don't fit
    assert cut.mean() == pytest.approx(1 / 6, abs=0.002)
    for size in range(1, 30):
        tokens = tokens_of([size] * 50)
        counts = np.bincount(tokens.example, target_spans(tokens, longest=5, one_in=6, seed=1))
        assert counts.min() >= 1
        assert counts.max() <= max(1, -(-size // 6) + 1)


def test_spans_have_one_to_five_tokens_each_as_often():
    lengths = [
        length
        for spans in spans_by_loop(tokens_of([600] * 40), 5, 6, 0)
        for _, length in spans[:-1]  # the last may be cut
    ]
    shares = np.bincount(lengths, minlength=6)[1:] / len(lengths)
    np.testing.assert_allclose(shares, 0.2, atol=0.05)


def test_the_order_is_a_permutation_of_each_examples_targets():
    tokens = tokens_of(SIZES)
    targets = target_spans(tokens, longest=5, one_in=6, seed=4)
    order = factorisation_order(tokens, targets, 4)
    assert (order[~targets] == 0).all()
    for example in range(len(SIZES)):
        mine = np.flatnonzero((tokens.example == example) & targets)
        by_hash = sorted(
            mine.tolist(), key=lambda n: int(hash64(4, 3, int(tokens.offset[n]), Purpose.FACTORISATION)[0])
        )
        assert order[by_hash].tolist() == list(range(1, len(mine) + 1))


def test_every_order_of_three_is_as_likely():
    tokens = tokens_of([3] * 6000)
    orders = factorisation_order(tokens, np.ones(18_000, dtype=np.bool_), 0).reshape(-1, 3)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 6000, 1 / 6, atol=0.02)


def test_noise_is_that_of_the_place_not_of_the_batch():
    def noise(tokens: Tokens) -> tuple[Ints, Any]:
        targets = target_spans(tokens, longest=5, one_in=6, seed=2)
        return factorisation_order(tokens, targets, 2), targets

    whole = tokens_of([40, 77, 50])
    order, targets = noise(whole)
    alone = whole.example == 1
    part = Tokens(*(column[alone] for column in whole))
    np.testing.assert_array_equal(noise(part)[0], order[alone])
    np.testing.assert_array_equal(noise(part)[1], targets[alone])
    again = whole._replace(draw=whole.draw + 1)
    assert (noise(again)[1] != targets).any()
