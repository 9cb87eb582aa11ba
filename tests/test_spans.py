"""The best spans against trying every one."""

import math

import pytest
import torch

from ptm_lightning.spans import Found, best_over_rows, best_spans, candidates_of_rows


@pytest.mark.parametrize(("longest", "count"), [(1, 1), (3, 5), (4, 200), (50, 20)])
def test_best_spans_are_the_best(longest: int, count: int) -> None:
    generator = torch.Generator().manual_seed(longest)
    logits = torch.randn(4, 12, 2, generator=generator)
    allowed = torch.rand(4, 12, generator=generator) < 0.7
    allowed[3] = False
    best = best_spans(logits, allowed, longest, count)
    for row in range(4):
        places = [place for place in range(12) if allowed[row, place]]
        every = sorted(
            (
                (float(logits[row, first, 0] + logits[row, last, 1]), first, last)
                for first in places
                for last in places
                if first <= last < first + longest
            ),
            reverse=True,
        )[:count]
        real = best.scores[row] > -math.inf
        found = zip(best.first[row][real].tolist(), best.last[row][real].tolist(), strict=True)
        assert list(found) == [(first, last) for _, first, last in every]


def test_candidates_are_characters_of_the_text() -> None:
    logits = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 3.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])
    characters = torch.tensor([[[-1, -1], [0, 3], [4, 7]], [[-1, -1], [4, 4], [-1, -1]]])
    found = candidates_of_rows(logits, characters, longest=5, count=9)
    assert found == [[Found(4.0, 0, 7), Found(3.0, 4, 7), Found(1.0, 0, 3)], []]


def test_a_span_of_several_windows_counts_once() -> None:
    rows = [[Found(1.0, 0, 3), Found(0.5, 4, 7)], [], [Found(2.0, 4, 7), Found(1.0, 8, 9)]]
    assert best_over_rows(rows, 2) == [Found(2.0, 4, 7), Found(1.0, 0, 3)]
    assert best_over_rows([[], []], 2) == []
