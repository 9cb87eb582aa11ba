"""What rows of two segments must keep beside their masks, held against real batches and rows: for `check`."""

from bisect import bisect_left
from itertools import pairwise

import numpy as np

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.pairs import LayOutPairs, sentences_of
from ptm_lightning.findings import Finding, share

DOCUMENTS = 2000
"""Of at most so many the first rows are looked at, since batches hold rows of like length."""


def wrong_types(pieces: Pieces, batch: Batch, asked: LayOutPairs) -> list[int]:
    """The rows whose token types aren't 0 up to the first segment's end and 1 from there to the second's."""
    before, after = len(asked.frame.before), len(asked.frame.after)
    lengths = pieces.length.reshape(-1, 2).tolist()
    wrong = []
    for row, (types, (first, second)) in enumerate(zip(batch["token_type_ids"].tolist(), lengths, strict=True)):
        right = [0] * (before + first + after) + [1] * (second + after)
        if types != right + [0] * (len(types) - len(right)):
            wrong.append(row)
    return wrong


def short_rows(asked: LayOutPairs) -> Finding:
    """Whether documents' first rows are shorter than they could be as often as asked for, and the others are filled.

    In a share of the documents a length from 2 to all the room is drawn, at which no more sentences are added. So it
    depends on where sentences end whether a row is seen to be shorter. Documents that never fill a row, or always do,
    say nothing; where there are no others, it isn't visible.
    """
    offsets, room = asked.store.offsets, asked.room
    some = np.arange(0, len(asked.store), -(-len(asked.store) // DOCUMENTS))
    start, length = offsets[some], offsets[some + 1] - offsets[some]
    first_rows = _first_rows(asked(start, length, np.zeros_like(start)), start, start + length)
    sentences = sentences_of(asked.store, start, length)
    expected, short, count = 0.0, 0, 0
    for number, (begin, end) in enumerate(pairwise(sentences.first.tolist())):
        ends = (sentences.end[begin:end] - start[number]).tolist()
        shorter = bisect_left(ends, room)
        if number not in first_rows or shorter < 2 or shorter == len(ends):
            continue
        count += 1
        expected += asked.short_share * (ends[shorter - 1] - 1) / (room - 1)
        short += first_rows[number] < room
    what = "rows that could be longer"
    return share(what, expected / count, short, count) if count else Finding(what, "", "not visible")


def _first_rows(pieces: Pieces, start: Ints, end: Ints) -> dict[int, int]:
    """By the number of a document, the tokens of its first row, unless its second segment is of another document.

    Args:
        pieces: Two for each row, in the order of the documents.
        start: (d,) where documents begin.
        end: (d,) where they end.
    """
    begins, lengths = pieces.start.reshape(-1, 2), pieces.length.reshape(-1, 2).sum(axis=1)
    documents, rows = np.unique(np.searchsorted(start, begins[:, 0], side="right") - 1, return_index=True)
    inside = (begins[rows, 1] >= start[documents]) & (begins[rows, 1] < end[documents])
    return dict(zip(documents[inside].tolist(), lengths[rows[inside]].tolist(), strict=True))
