"""Which pieces of which documents stand in which batch of which optimizer step, as a function of (seed, epoch, step).

An epoch is cut into chunks of documents that are laid out one by one, so that memory doesn't grow with the corpus. A
chunk holds a whole number of windows; a window is the micro-batches of one optimizer step on all processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from ptm_lightning.data.layout import Frame, LayOut, Pieces, take_rows
from ptm_lightning.data.noise import Ints, Purpose, hash64
from ptm_lightning.data.shuffle import permuted
from ptm_lightning.errors import UserError

CHUNK_TOKENS = 2**21


class Position(NamedTuple):
    """A place in the data: an epoch and a window (optimizer step) in it."""

    epoch: int
    window: int


class Extent(NamedTuple):
    """How much a plan holds; the first chunk of the first epoch stands for all."""

    documents: int
    tokens: int
    """Of the text, special tokens not counted."""
    steps: int
    """Optimizer steps of an epoch."""
    step_tokens: float
    """Tokens of an optimizer step, special ones included."""


class StepPlan(ABC):
    """Which micro-batches an optimizer step has: what a loader follows, and a run's length is reckoned by."""

    window: int
    """Micro-batches of an optimizer step, all processes together."""

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""

    @abstractmethod
    def where(self, step: int) -> Position:
        """The epoch, and the window in it, of an optimizer step counted from the run's start."""

    @abstractmethod
    def from_window(self, epoch: int, window: int) -> Iterator[tuple[int, ...]]:
        """Keys of the rest of an epoch's micro-batches, all processes together."""

    @abstractmethod
    def evaluation_keys(self, rank: int, processes: int) -> list[tuple[int, ...]]:
        """Keys of one process's share of everything, once."""

    @abstractmethod
    def tokens_by_step(self) -> Iterator[Ints]:
        """Tokens of each optimizer step, some steps at a time, for ever."""

    @abstractmethod
    def extent(self) -> Extent:
        """How much there is."""

    def from_step(self, step: int) -> Iterator[tuple[int, ...]]:
        """Keys from an optimizer step on, for ever."""
        first, window = self.where(step)
        for epoch in count(first):
            yield from self.from_window(epoch, window)
            window = 0

    def steps_for_tokens(self, tokens: int) -> int:
        """The number of optimizer steps after which at least this many tokens were seen."""
        step = 0
        for seen in map(np.cumsum, self.tokens_by_step()):
            if tokens <= seen[-1]:
                return step + int(np.searchsorted(seen, tokens)) + 1
            tokens -= int(seen[-1])
            step += len(seen)
        raise AssertionError


@dataclass(frozen=True)
class Chunk:
    """A part of an epoch, laid out: rows sorted into micro-batches."""

    pieces: Pieces
    """Sorted by row."""
    batches: list[Ints]
    """The rows of each micro-batch."""
    tokens: Ints
    """Tokens that aren't padding, by micro-batch."""

    def microbatch(self, index: int) -> Pieces:
        """The pieces of one micro-batch, its rows numbered from 0."""
        return take_rows(self.pieces, self.batches[index])


@dataclass(frozen=True)
class Plan(StepPlan):
    """The order of the data. Equal arguments give equal plans, in every process.

    Raises:
        UserError: If the corpus has fewer rows than an optimizer step has micro-batches.
    """

    offsets: Ints
    """(documents + 1,) where each document begins in the token store."""
    sources: tuple[int, ...]
    """(sources + 1,) the first document of each source."""
    shares: tuple[float, ...] | None
    """Share of the tokens that each source gives; None: as many as it has."""
    lay_out: LayOut
    """Makes rows of documents."""
    frame: Frame
    batch_tokens: int | None
    """Tokens of a micro-batch, padding included; or:"""
    batch_size: int | None
    """rows of a micro-batch."""
    window: int = 1
    """Micro-batches of an optimizer step, all processes together."""
    seed: int = 0
    shuffle: bool = True
    _steps: dict[tuple[int, int], int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk", lru_cache(maxsize=2)(self._chunk))

    def __reduce__(self) -> tuple[object, ...]:
        arguments = [getattr(self, name) for name in list(self.__dataclass_fields__)[:-1]]
        return type(self), tuple(arguments)

    def chunk(self, epoch: int, index: int) -> Chunk:
        """One chunk of an epoch, laid out. The last two are kept."""
        raise AssertionError  # replaced by a cache for each plan

    def chunks(self, epoch: int) -> int:
        """How many chunks an epoch has."""
        documents = sum(end - begin for begin, end in self._drawn(epoch))
        mean = max(1.0, (self.offsets[-1] - self.offsets[0]) / max(1, len(self.offsets) - 1))
        return max(1, round(float(documents * mean) / CHUNK_TOKENS))

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return sum(self._chunk_steps(epoch, index) for index in range(self.chunks(epoch)))

    def where(self, step: int) -> Position:
        """The epoch, and the window in it, of an optimizer step counted from the run's start."""
        for epoch in count():
            window = step
            for index in range(self.chunks(epoch)):
                if step < (steps := self._chunk_steps(epoch, index)):
                    return Position(epoch, window)
                step -= steps
        raise AssertionError

    def from_window(self, epoch: int, window: int) -> Iterator[tuple[int, int, int]]:
        """Keys (epoch, chunk, micro-batch) of the rest of an epoch, all processes together."""
        for index in range(self.chunks(epoch)):
            steps = self._chunk_steps(epoch, index)
            for microbatch in range(min(window, steps) * self.window, steps * self.window):
                yield epoch, index, microbatch
            window = max(0, window - steps)

    def evaluation_keys(self, rank: int, processes: int) -> list[tuple[int, ...]]:
        """Keys of one process's share of the first epoch."""
        return list(islice(self.from_window(0, 0), rank, None, processes))

    def tokens_by_step(self) -> Iterator[Ints]:
        """Tokens of each optimizer step, chunk by chunk, for ever."""
        for epoch in count():
            for index in range(self.chunks(epoch)):
                yield self.chunk(epoch, index).tokens.reshape(-1, self.window).sum(axis=1)

    def extent(self) -> Extent:
        """How much there is."""
        steps = self._chunk_steps(0, 0)
        tokens = int(self.offsets[-1] - self.offsets[0])
        step_tokens = float(self.chunk(0, 0).tokens.sum()) / steps
        return Extent(len(self.offsets) - 1, tokens, steps * self.chunks(0), step_tokens)

    def _chunk_steps(self, epoch: int, index: int) -> int:
        if (epoch, index) not in self._steps:
            self._steps[epoch, index] = len(self.chunk(epoch, index).batches) // self.window
        return self._steps[epoch, index]

    def _drawn(self, epoch: int) -> list[tuple[int, int]]:
        """By source, the draws of the epoch: draw i is document i % documents, shuffled anew each time round."""
        sizes = np.diff(self.sources)
        if self.shares is None:
            return [(epoch * int(size), (epoch + 1) * int(size)) for size in sizes]
        tokens = np.diff(self.offsets[list(self.sources)])
        times = np.array(self.shares) / sum(self.shares) * tokens.sum() / np.maximum(tokens, 1)
        return [
            (int(epoch * time * size), int((epoch + 1) * time * size)) for time, size in zip(times, sizes, strict=True)
        ]

    def _documents(self, epoch: int, places: Ints) -> tuple[Ints, Ints]:
        """The documents at these places of the epoch, and how often each was drawn before."""
        drawn = self._drawn(epoch)
        begins = np.cumsum([0] + [end - begin for begin, end in drawn])
        if self.shuffle:
            places = permuted(places, int(begins[-1]), self._key(epoch, Purpose.MIX))
        source = np.searchsorted(begins, places, side="right") - 1
        document, draw = np.empty_like(places), np.empty_like(places)
        for i, (first, size) in enumerate(zip(self.sources, np.diff(self.sources), strict=False)):
            (mine,) = np.nonzero(source == i)
            if not len(mine):
                continue
            nth = places[mine] - begins[i] + drawn[i][0]
            draw[mine], within = nth // size, nth % size
            if self.shuffle:
                for time in np.unique(draw[mine]):
                    same = draw[mine] == time
                    within[same] = permuted(within[same], int(size), self._key(int(time), Purpose.ORDER, i))
            document[mine] = first + within
        return document, draw

    def _key(self, time: int, purpose: Purpose, source: int = 0) -> int:
        return int(hash64(self.seed, time, source, purpose)[0])

    def _chunk(self, epoch: int, index: int) -> Chunk:
        total, chunks = sum(end - begin for begin, end in self._drawn(epoch)), self.chunks(epoch)
        places = np.arange(index * total // chunks, (index + 1) * total // chunks)
        document, draw = self._documents(epoch, places)
        begin = self.offsets[document]
        pieces = self.lay_out(begin, self.offsets[document + 1] - begin, draw)
        lengths = pieces.row_lengths(self.frame)
        tie = hash64(self.seed, epoch, np.arange(len(lengths)), Purpose.ORDER)
        batches = split_batches(self._cut(np.lexsort((tie, -lengths)), lengths), self.window)
        if self.shuffle:
            order = np.argsort(hash64(self.seed, epoch, index * 2**32 + np.arange(len(batches)), Purpose.BATCH))
            batches = [batches[i] for i in order]
        return Chunk(pieces, batches, np.array([lengths[rows].sum() for rows in batches]))

    def _cut(self, rows: Ints, lengths: Ints) -> list[Ints]:
        """Rows, the longest first, cut into batches that keep the budget."""
        batches, begin = [], 0
        while begin < len(rows):
            size = self.batch_size or max(1, (self.batch_tokens or 0) // int(lengths[rows[begin]]))
            batches.append(rows[begin : begin + size])
            begin += size
        return batches


def split_batches(batches: Sequence[Ints], multiple: int) -> list[Ints]:
    """Halves the batches with the most rows until their number is a multiple, so that every window is whole.

    Args:
        batches: Row numbers by batch.
        multiple: Micro-batches of a window.

    Returns:
        The same rows in a multiple of `multiple` batches.

    Raises:
        UserError: If there are fewer rows than that.
    """
    result = list(batches)
    while len(result) % multiple:
        largest = max(range(len(result)), key=lambda i: len(result[i]))
        rows = result[largest]
        if len(rows) < 2:
            raise UserError(
                f"--data.train: the corpus is too small: {len(result)} rows for an optimizer step of {multiple} "
                "micro-batches; "
                "give more text, or lower --trainer.accumulate_grad_batches or --trainer.devices"
            )
        result[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return result
