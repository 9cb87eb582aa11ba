"""The best spans of a text by the logits of their first and last token: within rows, and over the rows of one text.

Shapes: R rows of T places, C candidates.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Candidates(NamedTuple):
    """Spans of each row, the best first."""

    scores: Tensor
    """(R, C) sum of the two logits; -inf where a row has no more spans."""
    first: Tensor
    """(R, C) the place of the first token."""
    last: Tensor
    """(R, C)"""


def best_spans(logits: Tensor, allowed: Tensor, longest: int, count: int) -> Candidates:
    """The spans with the highest sum of the first token's start logit and the last one's end logit.

    All spans are compared, where BERT's code takes the 20 best starts and the 20 best ends: those are often no spans
    at all.

    Args:
        logits: (R, T, 2) of start and end.
        allowed: (R, T) bool: where a span may lie.
        longest: Tokens of a span at most.
        count: How many are wanted.
    """
    start, end = logits.masked_fill(~allowed.unsqueeze(-1), -torch.inf).unbind(dim=-1)
    longest = min(longest, start.shape[1])
    ends = functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)  # (R, T, longest)
    scores = (start.unsqueeze(-1) + ends).flatten(1)
    scores, index = scores.topk(min(count, scores.shape[1]))
    first = index // longest
    return Candidates(scores, first, first + index % longest)


class Found(NamedTuple):
    """A span of a text."""

    score: float
    begin: int
    """Its first character."""
    end: int
    """Behind its last one."""


def candidates_of_rows(logits: Tensor, characters: Tensor, longest: int, count: int) -> list[list[Found]]:
    """The best spans of each row, as characters of its text.

    Args:
        logits: (R, T, 2) of start and end.
        characters: (R, T, 2) where the token at a place begins and ends in the text; -1 where none of it stands. White
            space, which begins where it ends, neither begins nor ends a span.
        longest: Tokens of a span at most.
        count: How many are wanted.
    """
    best = best_spans(logits, characters[..., 0] < characters[..., 1], longest, count)
    begin = characters[..., 0].gather(1, best.first)
    end = characters[..., 1].gather(1, best.last.clamp(max=characters.shape[1] - 1))
    rows = zip(best.scores.tolist(), begin.tolist(), end.tolist(), strict=True)
    return [[Found(*one) for one in zip(*row, strict=True) if one[0] > -torch.inf] for row in rows]


def best_over_rows(rows: Iterable[Iterable[Found]], count: int) -> list[Found]:
    """The best spans of a text, from those of its rows; one that stands in several has its best score."""
    best: dict[tuple[int, int], Found] = {}
    for found in (found for row in rows for found in row):
        place = (found.begin, found.end)
        if place not in best or best[place].score < found.score:
            best[place] = found
    return sorted(best.values(), key=lambda found: (-found.score, found.begin, found.end))[:count]
