"""Three ways to lay documents out in rows: a row each, several isolated in a row, or one stream cut into blocks.

Shapes: d documents, p pieces, r rows.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from ptm_lightning.data.noise import Bools, Ints

Layout = Literal["rows", "packed", "blocks"]


class Frame(NamedTuple):
    """The special tokens around a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        """How many there are, both sides together."""
        return len(self.before) + len(self.after)


class Pieces(NamedTuple):
    """Stretches of the token store, sorted by row, and in reading order within a row."""

    start: Ints
    """(p,) place in the token store."""
    length: Ints
    """(p,) tokens, special ones not counted."""
    draw: Ints
    """(p,) how often the document was drawn before."""
    row: Ints
    """(p,) never decreases."""
    opens: Bools
    """(p,) whether the frame's tokens stand before it."""
    closes: Bools
    """(p,) whether the frame's tokens stand after it."""

    def totals(self, frame: Frame) -> Ints:
        """(p,) tokens of each piece, special ones included."""
        return np.asarray(self.length + self.opens * len(frame.before) + self.closes * len(frame.after))

    def row_lengths(self, frame: Frame) -> Ints:
        """(r,) tokens of each row, special ones included."""
        return np.bincount(self.row, weights=self.totals(frame)).astype(np.int64)


class LayOut(Protocol):
    """What makes rows of documents, such as `lay_out` with its settings. It goes to the workers: picklable."""

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """Takes (d,) where documents begin in the token store, their tokens, and how often they were drawn before."""


def take_rows(pieces: Pieces, rows: Ints) -> Pieces:
    """The pieces of some rows, in the order of these rows, which are numbered from 0."""
    begin = np.searchsorted(pieces.row, rows)
    count = np.searchsorted(pieces.row, rows, side="right") - begin
    index = np.repeat(begin - np.cumsum(count) + count, count) + np.arange(count.sum())
    return _take(pieces, index)._replace(row=np.repeat(np.arange(len(rows)), count))


def _take(pieces: Pieces, index: Ints) -> Pieces:
    columns: list[Any] = [column[index] for column in pieces]
    return Pieces(*columns)


def lay_out(start: Ints, length: Ints, draw: Ints, *, layout: Layout, max_length: int, frame: Frame) -> Pieces:
    """Lays documents out in rows of at most `max_length` tokens; nothing is dropped.

    Args:
        start: (d,) where each document begins in the token store.
        length: (d,) its tokens.
        draw: (d,) how often it was drawn before.
        layout: "rows": a piece of a document in each row. "packed": several framed pieces in a row, isolated by the
            attention mask. "blocks": one stream of documents, each closed by the separator, cut every `max_length`.
        max_length: Longest row, special tokens included.
        frame: The special tokens around a text.

    Returns:
        The pieces, sorted by row.
    """
    if layout == "blocks":
        return _blocks(start, length, draw, max_length - len(frame.before), len(frame.after))
    pieces = _cut_evenly(start, length, draw, max_length - len(frame))
    if layout == "rows":
        return pieces
    row = _best_fit(pieces.length + len(frame), max_length)
    order = np.argsort(row, kind="stable")
    return _take(pieces._replace(row=row), order)


@dataclass(frozen=True)
class Stream:
    """Blocks of one stream in which the frame's first tokens stand nowhere, and its last ones after each document."""

    max_length: int
    frame: Frame

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """The pieces of rows of `max_length` tokens, the last one shorter."""
        separated = Frame((), self.frame.after)
        pieces = lay_out(start, length, draw, layout="blocks", max_length=self.max_length, frame=separated)
        return pieces._replace(opens=np.zeros_like(pieces.opens))


@dataclass(frozen=True)
class Continued:
    """Rows, or packed ones, in which the frame stands around a whole document, though it may be cut into pieces.

    A piece that goes on begins with the last token of the piece before it, where the first one has the frame's only
    token in front: so a network that predicts each token from those before it predicts every one of them once.

    References:
        - lm-evaluation-harness, get_rolling_token_windows with a context of one token,
          https://github.com/EleutherAI/lm-evaluation-harness
    """

    layout: Literal["rows", "packed"]
    max_length: int
    frame: Frame

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """The pieces of rows of at most `max_length` tokens."""
        assert len(self.frame.before) == 1
        pieces = lay_out(start, length, draw, layout=self.layout, max_length=self.max_length, frame=self.frame)
        opens = np.isin(pieces.start, start)
        closes = np.isin(pieces.start + pieces.length, start + length)
        return pieces._replace(start=pieces.start - ~opens, length=pieces.length + ~opens, opens=opens, closes=closes)


def _cut_evenly(start: Ints, length: Ints, draw: Ints, longest: int) -> Pieces:
    """A row for each piece; a document that is too long is cut into pieces of equal length, give or take one token."""
    count = -(-length // longest)
    document = np.repeat(np.arange(len(length)), count)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    begin = nth * length[document] // count[document]
    end = (nth + 1) * length[document] // count[document]
    framed = np.ones(len(document), dtype=np.bool_)
    return Pieces(start[document] + begin, end - begin, draw[document], np.arange(len(document)), framed, framed)


def _blocks(start: Ints, length: Ints, draw: Ints, width: int, separator: int) -> Pieces:
    """The stream is every document followed by `separator` (0 or 1) places, cut every `width` places."""
    end = np.cumsum(length + separator)
    begin = end - length - separator
    first, last = begin // width, (end - 1) // width
    count = last - first + 1
    document = np.repeat(np.arange(len(length)), count)
    row = first[document] + np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    piece_begin = np.maximum(begin[document], row * width)
    piece_end = np.minimum(end[document], (row + 1) * width)
    text_end = np.minimum(piece_end, end[document] - separator)
    return Pieces(
        start[document] + piece_begin - begin[document],
        text_end - piece_begin,
        draw[document],
        row,
        np.diff(row, prepend=-1) > 0,
        piece_end > text_end,
    )


def _best_fit(totals: Ints, width: int) -> Ints:
    """Best-fit decreasing: each piece, the longest first, goes into the fullest row that has room for it.

    Returns:
        (p,) the row of each piece.
    """
    rows_with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    row = np.empty(len(totals), dtype=np.int64)
    opened = 0
    for piece in np.argsort(-totals, kind="stable").tolist():
        total = int(totals[piece])
        at = bisect_left(rooms, total)
        if at == len(rooms):
            mine, room = opened, width
            opened += 1
        else:
            room = rooms[at]
            mine = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rooms[at]
        row[piece] = mine
        if left := room - total:
            if not rows_with_room[left]:
                insort(rooms, left)
            rows_with_room[left].append(mine)
    return row
