"""Stored conversations as batches: the rows of a store, and in evaluation one for each reply.

Shapes: d conversations, r rows or replies of a store, R rows of T places.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ptm_lightning.data.answering import answer_batch
from ptm_lightning.data.batch import Batch, frame_rows
from ptm_lightning.data.conversations import BEGINS, messages_of
from ptm_lightning.data.example_data import example_at, single_pieces
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.seq2seq import Ragged


@dataclass(frozen=True)
class Replies:
    """Makes rows of stored conversations: a `LayOut`.

    In evaluation a row ends with each reply, which alone is its target; so that what is generated for it has the same
    before it, and each reply counts once.
    """

    store: ExampleStore
    evaluate: bool

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """One piece for each row."""
        ends = self.reply_ends if self.evaluate else self._row_ends
        first, last = (np.searchsorted(ends, place, side="right") for place in (start, start + length))
        count = last - first
        conversation = np.repeat(np.arange(len(start)), count)
        end = ends[np.arange(len(conversation)) + (first - np.cumsum(count) + count)[conversation]]
        begin = self._row_starts[np.searchsorted(self._row_starts, end) - 1]
        return single_pieces(begin, end - begin, draw[conversation])

    @cached_property
    def reply_ends(self) -> Ints:
        """(r,) the place in the store behind each reply."""
        turn = self.store.columns["turn"]
        ends = np.flatnonzero((turn > 0) & (np.append(turn[1:], BEGINS) != turn)) + 1
        return np.asarray(ends)

    @cached_property
    def _row_starts(self) -> Ints:
        return np.flatnonzero(self.store.columns["turn"] == BEGINS)

    @property
    def _row_ends(self) -> Ints:
        return np.append(self._row_starts[1:], len(self.store.tokens))


@dataclass(frozen=True)
class ReplyCollate:
    """Rows of conversations to a batch, in which the loss reads what the assistant says."""

    replies: Replies
    pad_id: int
    two_sided: bool
    """For an encoder-decoder, whose decoder says the reply."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows; in evaluation with the replies' numbers and texts."""
        store, evaluate = self.replies.store, self.replies.evaluate
        rows = frame_rows(pieces, store.tokens, Frame((), ()), self.pad_id, isolated=True)
        ids, row = rows.input_ids.ravel()[rows.content], rows.content // rows.input_ids.shape[1]
        turn = np.asarray(store.columns["turn"])[rows.offset]
        last = np.asarray(store.columns["turn"])[pieces.start + pieces.length - 1]  # (R,) the turn that ends each row
        said = turn == last[row] if evaluate else turn > 0
        batch = answer_batch(Ragged(ids, row), said, pad_id=self.pad_id, two_sided=self.two_sided)
        if evaluate:
            batch["examples"] = torch.from_numpy(np.searchsorted(self.replies.reply_ends, pieces.start + pieces.length))
            batch["rows"] = self._texts(pieces, last)
        return batch

    def _texts(self, pieces: Pieces, last: Ints) -> list[dict[str, Any]]:
        """(R) what each reply answers, and the reply."""
        store = self.replies.store
        conversations = store.rows(example_at(store, pieces.start).tolist())
        texts = []
        for row, turn in zip(conversations, last.tolist(), strict=True):
            messages = messages_of(row, "")
            texts.append({"source": messages[turn - 2]["content"], "reference": messages[turn - 1]["content"]})
        return texts
