"""T5's noise, against a loop written from Google's code and against counting."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from ptm_lightning.data.span_corruption import (
    Denoiser,
    corrupt,
    corrupted_lengths,
    longest_text,
    noise_spans,
    restore,
    span_counts,
)

SENTINELS = np.array([999, 998, 997, 996, 995, 994, 993, 992])
END = 1


def noised(lengths: np.ndarray, density: float = 0.15, mean: float = 3.0, seed: int = 0, first: int = 0) -> np.ndarray:
    total = int(lengths.sum())
    place = np.arange(total)
    counts = span_counts(lengths, density, mean)
    return noise_spans(lengths, *counts, draw=np.zeros(total, int), offset=place + first, seed=seed)


def spans_of(noise: np.ndarray) -> int:
    return int((np.diff(np.append(0, noise.astype(int))) == 1).sum())


def corrupted_by_loop(row: list[int], noise: list[bool]) -> tuple[list[int], list[int]]:
    """One row with its end, token by token."""
    inputs: list[int] = []
    targets: list[int] = []
    used = 0
    for i, token in enumerate(row[:-1]):
        if not noise[i]:
            inputs.append(token)
            continue
        if i == 0 or not noise[i - 1]:
            inputs.append(int(SENTINELS[used]))
            targets.append(int(SENTINELS[used]))
            used += 1
        targets.append(token)
    return [*inputs, row[-1]], [*targets, row[-1]]


def test_the_published_lengths():
    """T5: 568 tokens become 512 of the encoder and 114 of the decoder, ends included."""
    assert longest_text(511, 511, [Denoiser(0.15, 3.0)]) == 568
    kept, said = corrupted_lengths(np.array([568, 569]), 0.15, 3.0)
    assert (kept[0] + 1, said[0] + 1) == (512, 114)
    assert kept[1] + 1 > 512


@pytest.mark.parametrize("width", [8, 31, 64, 127, 511])
@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.25, np.inf)])
def test_rows_come_to_exactly_the_width(width: int, density: float, mean: float):
    longest = longest_text(width, 10 * width, [Denoiser(density, mean)])
    kept, _ = corrupted_lengths(np.arange(2, longest + 2), density, mean)
    assert kept[longest - 2] == width < kept[-1]
    assert (kept[:-1] <= width).all()


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 8.0), (0.9, 1.0), (0.25, np.inf)])
def test_exact_numbers_of_noise_and_spans(density: float, mean: float):
    lengths = np.arange(1, 200)
    noise = noised(lengths, density, mean)
    for row, length in zip(np.split(noise, np.cumsum(lengths)[:-1]), lengths.tolist(), strict=True):
        wanted = min(max(round(length * density), 1), length - 1)
        assert row.sum() == wanted
        assert spans_of(row) == min(max(round(wanted / mean), 1), wanted, length - wanted)
        assert not row[0]
        assert row[-1] == (length > 1)


def test_all_ways_are_equally_likely():
    """10 tokens, 4 of noise in 2 spans: 3 ways to cut the noise times 5 ways to cut the rest."""
    draws = 6000
    noise = noised(np.full(draws, 10), 0.4, 2.0).reshape(draws, 10)
    seen = Counter("".join("01"[bit] for bit in row) for row in noise.astype(int))
    assert len(seen) == len(list(combinations(range(3), 1))) * len(list(combinations(range(5), 1)))
    expected = draws / len(seen)
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 36  # chi-square, 14 degrees, p = 0.001


def test_noise_belongs_to_the_text_not_to_the_batch():
    lengths = np.array([40, 17, 90, 5])
    whole = np.split(noised(lengths), np.cumsum(lengths)[:-1])
    begin = 0
    for row, length in zip(whole, lengths, strict=True):
        assert (noised(np.array([length]), first=begin) == row).all()
        begin += length
    assert any((noised(lengths, seed=1)[:40] != whole[0]).tolist())


def test_another_draw_is_other_noise():
    lengths, offset = np.array([200]), np.arange(200)
    counts = span_counts(lengths, 0.15, 3.0)
    first, second = (noise_spans(lengths, *counts, draw=np.full(200, draw), offset=offset, seed=0) for draw in (0, 1))
    assert (first != second).any()


def test_both_sides_equal_a_loop_and_give_the_text_back():
    lengths = np.array([2, 1, 30, 44, 7])
    noise = noised(lengths)
    rng = np.random.default_rng(0)
    texts = [[*rng.integers(5, 900, length).tolist(), END] for length in lengths]
    masks = [[*row.tolist(), False] for row in np.split(noise, np.cumsum(lengths)[:-1])]
    row = np.repeat(np.arange(len(texts)), lengths + 1)
    flat = np.concatenate([np.array(text) for text in texts])
    found = corrupt(flat, row, np.concatenate(masks), SENTINELS)
    for i, (text, mask) in enumerate(zip(texts, masks, strict=True)):
        inputs = found.inputs[found.input_row == i].tolist()
        targets = found.targets[found.target_row == i].tolist()
        assert (inputs, targets) == corrupted_by_loop(text, mask)
        assert restore(inputs, targets[:-1], SENTINELS.tolist()) == text
    said = found.source >= 0
    assert (flat[found.source[said]] == found.targets[said]).all()
    assert set(found.targets[~said].tolist()) <= {*SENTINELS.tolist(), END}


@pytest.mark.parametrize("fault", ["sentinel order", "shift by one", "leak"])
def test_planted_faults_break_the_round_trip(fault: str):
    text = [*range(100, 140), END]
    mask = np.append(noised(np.array([40]), 0.3), False)
    found = corrupt(np.array(text), np.zeros(41, int), mask, SENTINELS)
    inputs, targets = found.inputs.tolist(), found.targets.tolist()[:-1]
    if fault == "sentinel order":
        swap = {999: 998, 998: 999}
        targets = [swap.get(token, token) for token in targets]
    elif fault == "shift by one":
        targets = [*targets[1:], targets[0]]
    else:
        inputs.insert(1, targets[1])
    assert restore(inputs, targets, SENTINELS.tolist()) != text
    assert (inputs, [*targets, END]) != corrupted_by_loop(text, mask.tolist())
