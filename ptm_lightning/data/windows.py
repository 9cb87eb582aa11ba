"""Long texts in windows that overlap: rows of a first field that is short, if there is one, and a stretch of the last.

Shapes: n examples of k fields (one or two), w windows, T places of a row.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.example_data import example_at, field_lengths, field_starts, single_pieces
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.template import Template


class Cut(NamedTuple):
    """The windows of some examples, in order."""

    example: Ints
    """(w,) the example that each belongs to."""
    begin: Ints
    """(w,) its first token in the last field."""
    lengths: Ints
    """(w, k) tokens of each field."""


def cut_windows(lengths: Ints, room: int, stride: int) -> Cut:
    """Cuts the last field into windows that leave no token out; an empty one has one window.

    Args:
        lengths: (n, k) tokens of the fields.
        room: Tokens of a row without the special ones. A first field takes half of it at most; the rest of it is cut.
        stride: Tokens from the beginning of one window to that of the next; never more than a window has.
    """
    first = np.minimum(lengths[:, :-1], room // 2)
    rest, last = room - first.sum(axis=1), lengths[:, -1]
    step = np.minimum(stride, rest)
    count = 1 + -(-np.maximum(last - rest, 0) // step)
    example = np.repeat(np.arange(len(last)), count)
    begin = (np.arange(len(example)) - np.repeat(np.cumsum(count) - count, count)) * step[example]
    length = np.minimum(rest[example], last[example] - begin)
    return Cut(example, begin, np.column_stack([first[example], length]))


def owned(cut: Cut, whole: Ints, room: int, stride: int) -> tuple[Ints, Ints]:
    """Which tokens of the last field are a window's own, so that each is in one: where it is further from an end.

    Args:
        cut: The windows.
        whole: (w,) tokens of the whole last field of their examples.
        room: As for `cut_windows`.
        stride: The same.

    Returns:
        (w,) the first, and (w,) the end.
    """
    width = room - cut.lengths[:, :-1].sum(axis=1)
    shared = width - np.minimum(stride, width)
    end = cut.begin + cut.lengths[:, -1]
    first = np.where(cut.begin > 0, cut.begin + shared // 2, cut.begin)
    return first, np.where(end < whole, end - shared + shared // 2, end)


@dataclass(frozen=True)
class Windows:
    """Makes rows of windows of a store's examples: a `LayOut`, and what reads its pieces.

    A piece begins at the window's first token of the last field, and is as long as all the fields' tokens in its row.
    """

    store: ExampleStore
    template: Template
    max_length: int
    stride: int

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """One piece for each window."""
        examples = example_at(self.store, start)
        cut = self._cut(examples)
        begin = field_starts(self.store, examples)[cut.example, -1] + cut.begin
        return single_pieces(begin, cut.lengths.sum(axis=1), draw[cut.example])

    def read(self, pieces: Pieces) -> tuple[Cut, Ints]:
        """The windows of a batch, their examples by their numbers in the store, and (w, k) where each field begins."""
        examples = example_at(self.store, pieces.start)
        lengths = field_lengths(self.store, examples)
        lengths[:, :-1] = np.minimum(lengths[:, :-1], self.room // 2)
        lengths[:, -1] = pieces.length - lengths[:, :-1].sum(axis=1)
        starts = field_starts(self.store, examples)
        begin = pieces.start - starts[:, -1]
        starts[:, -1] = pieces.start
        return Cut(examples, begin, lengths), starts

    def owned(self, cut: Cut) -> tuple[Ints, Ints]:
        """Which tokens of the last field are each window's own; see the function."""
        return owned(cut, field_lengths(self.store, cut.example)[:, -1], self.room, self.stride)

    @property
    def room(self) -> int:
        """Tokens of a row without the special ones."""
        return self.max_length - len(self.template)

    def _cut(self, examples: Ints) -> Cut:
        return cut_windows(field_lengths(self.store, examples), self.room, self.stride)


def last_field_columns(template: Template, lengths: Ints) -> Ints:
    """(w,) the column of a row at which its last field begins; `lengths` is (w, k)."""
    return template.special_columns(lengths)[:, -2] + len(template.special[-2])


def spread(values: NDArray[Any], first: Ints, lengths: Ints, column: Ints, batch: Batch) -> Ints:
    """Values of stretches of tokens, put where these tokens stand in their rows.

    Args:
        values: (tokens,) of the store or of a text.
        first: (w,) where each row's stretch begins there.
        lengths: (w,) its tokens.
        column: (w,) where it begins in its row.
        batch: The rows.

    Returns:
        (w, T), -1 everywhere else.
    """
    row = np.repeat(np.arange(len(first)), lengths)
    within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result = np.full(batch["input_ids"].shape, -1, dtype=np.int64)
    result[row, column[row] + within] = values[first[row] + within]
    return result
