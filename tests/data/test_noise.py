import numpy as np
import pytest

from ptm_lightning.data.noise import (
    NGRAM_LENGTHS,
    SPAN_LENGTHS,
    Purpose,
    Tokens,
    choose,
    hash64,
    hash_number,
    mask,
    span_starts,
    uniform,
)
from ptm_lightning.data.shuffle import permuted

ORDINARY = np.arange(5, 1000)
MASK = 4


def text(examples: int = 600, seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    example = np.repeat(np.arange(examples), rng.integers(30, 120, examples))
    count = len(example)
    return Tokens(rng.integers(5, 1000, count), example, np.arange(count) + 10_000, np.zeros(count, np.int64))


def word_starts(tokens: Tokens) -> np.ndarray:
    return (np.random.default_rng(1).random(len(tokens.ids)) < 0.7) | (np.diff(tokens.example, prepend=-1) > 0)


def noised(tokens: Tokens, starts: np.ndarray, rate: float = 0.15, seed: int = 0):
    return mask(
        tokens, starts, rate=rate, mask_share=0.8, random_share=0.1, mask_id=MASK, ordinary_ids=ORDINARY, seed=seed
    )


def units(tokens: Tokens, kind: str) -> np.ndarray:
    if kind == "token":
        return np.ones(len(tokens.ids), dtype=bool)
    return word_starts(tokens) if kind == "word" else span_starts(word_starts(tokens), tokens, SPAN_LENGTHS, 0)


def test_uniform_numbers_are_uniform_and_independent():
    numbers = uniform(0, 0, np.arange(100_000), Purpose.CHOOSE)
    other = uniform(0, 0, np.arange(100_000), Purpose.KIND)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert np.bincount((numbers * 10).astype(int)).max() < 10_500
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("changed", [{"seed": 1}, {"draw": 1}, {"offset": 8}, {"purpose": Purpose.KIND}])
def test_every_part_of_the_key_counts(changed):
    key = {"seed": 0, "draw": 0, "offset": 7, "purpose": Purpose.CHOOSE}
    assert hash64(**key)[0] != hash64(**(key | changed))[0]


@pytest.mark.parametrize("seed", [0, 3, -1, 2**63, 2**70])
@pytest.mark.parametrize("purpose", [Purpose.CHOOSE, Purpose.EXCHANGE])
def test_a_single_number_is_that_of_the_arrays(seed, purpose):
    for draw in (0, 1, 999_999, 2**62):
        for offset in (0, 7, 2**40):
            assert hash_number(seed, draw, offset, purpose) == hash64(seed, draw, offset, purpose)[0]


@pytest.mark.parametrize("kind", ["token", "word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_budget_is_met_in_tokens(kind, rate):
    tokens = text()
    chosen = noised(tokens, units(tokens, kind), rate).chosen
    assert abs(chosen.mean() - rate) < 0.01


@pytest.mark.parametrize("kind", ["token", "word", "span"])
def test_every_example_has_a_target_and_units_stay_whole(kind):
    tokens = text()
    starts = units(tokens, kind)
    chosen = noised(tokens, starts, rate=0.02).chosen
    assert set(tokens.example[chosen]) == set(tokens.example)
    unit = np.cumsum(starts)
    for number in np.unique(unit[chosen]):
        assert chosen[unit == number].all()


def test_shares_and_replacements():
    tokens = text(3000)
    ids, chosen = noised(tokens, units(tokens, "token"))
    assert (ids[~chosen] == tokens.ids[~chosen]).all()
    assert abs((ids[chosen] == MASK).mean() - 0.8) < 0.01
    assert abs((ids[chosen] == tokens.ids[chosen]).mean() - 0.1) < 0.01
    assert np.isin(ids[chosen & (ids != MASK)], ORDINARY).all()


def test_kind_is_decided_for_a_whole_word():
    tokens = text()
    starts = units(tokens, "word")
    ids, chosen = noised(tokens, starts)
    unit = np.cumsum(starts)
    for number in np.unique(unit[chosen]):
        assert len(np.unique(ids[unit == number] == MASK)) == 1


def test_span_lengths_follow_the_truncated_geometric_distribution():
    tokens = text(2000)
    words = np.diff(tokens.example, prepend=-1) > -1
    starts = span_starts(words, tokens, SPAN_LENGTHS, 0)
    lengths = np.diff(np.flatnonzero(starts))
    inside = np.diff(tokens.example[starts]) == 0  # the last span of an example may be cut by its end
    share = 0.2 * 0.8 ** np.arange(10)
    expected = (share / share.sum() * np.arange(1, 11)).sum()
    assert lengths.max() <= 10
    assert abs(lengths[inside].mean() - expected) < 0.15  # 3.8 words in SpanBERT


def test_ngrams_are_in_proportion_to_one_by_their_length():
    tokens = text(3000)
    starts = span_starts(np.ones(len(tokens.ids), dtype=bool), tokens, NGRAM_LENGTHS, 0)
    lengths = np.diff(np.flatnonzero(starts))[np.diff(tokens.example[starts]) == 0]
    shares = np.bincount(lengths, minlength=4)[1:] / len(lengths)
    assert np.abs(shares - np.array([6, 3, 2]) / 11).max() < 0.01


@pytest.mark.parametrize("kind", ["token", "word"])
def test_noise_does_not_depend_on_the_batch(kind):
    tokens = text(50)
    starts = units(tokens, kind)
    whole = noised(tokens, starts)
    some = np.isin(tokens.example, [3, 17, 20])
    alone = noised(Tokens(*(column[some] for column in tokens)), starts[some])
    assert (whole.ids[some] == alone.ids).all()
    assert (whole.chosen[some] == alone.chosen).all()


def test_another_draw_is_other_noise():
    tokens = text(50)
    again = tokens._replace(draw=tokens.draw + 1)
    starts = units(tokens, "token")
    assert (noised(tokens, starts).chosen != noised(again, starts).chosen).any()


def test_a_long_first_unit_is_still_one_choice():
    tokens = Tokens(np.arange(5, 15), np.zeros(10, int), np.arange(10), np.zeros(10, int))
    starts = np.zeros(10, dtype=bool)
    starts[0] = True
    assert (choose(tokens, starts, 0.15, 0) == 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 65_537])
def test_permuted_is_a_permutation(size):
    found = permuted(np.arange(size), size, key=5)
    assert sorted(found) == list(range(size))


def test_permutations_differ_by_key_and_look_random():
    first, second = (permuted(np.arange(10_000), 10_000, key) for key in (1, 2))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.03
