"""Rows of two texts, a source and its target: as examples, and stored ones as batches.

Shapes: R rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from ptm_lightning.data.answering import answer_batch
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.cached_tokenizer import CachedTokenizer
from ptm_lightning.data.example_data import encode_fields, example_at, field_lengths, single_pieces
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.seq2seq import Ragged
from ptm_lightning.data.tokenizer import meaning_special
from ptm_lightning.metrics.references import references_of

Longest = tuple[int, int]
"""Tokens of the longest source and of the longest target, without special tokens."""


class Sides:
    """Rows of two texts: a source and a target, each with what is put before it; rows that lack one are left out.

    A list of targets are several right answers; the first one is learned.
    """

    known: Sequence[str] = ()

    def __init__(self, fields: tuple[str, ...], prefix: str, lead: str) -> None:
        self.fields, self.together = fields, fields[:1]
        self.prefix, self.lead = prefix, lead
        self.key = ["sides", prefix, lead]
        self.incomplete: dict[str, int] = {}
        """Rows that are left out, by the flag of their source."""
        self.references: dict[bool, set[int]] = {False: set(), True: set()}
        """How many right answers training rows and evaluation rows have."""

    def take(self, row: Row, where: str) -> None:
        """Counts the row if it is left out, and else its right answers."""
        self._count(row, where, evaluated=False)

    def check(self, row: Row, where: str) -> None:
        """The same of an evaluation row."""
        self._count(row, where, evaluated=True)

    def _count(self, row: Row, where: str, *, evaluated: bool) -> None:
        if self._complete(row):
            self.references[evaluated].add(len(references_of(row[self.fields[1]])))
        else:
            flag = where.partition(":")[0]
            self.incomplete[flag] = self.incomplete.get(flag, 0) + 1

    def stratum(self, row: Row) -> int:
        """All rows are alike."""
        return 0

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """Token ids of both sides; none of a row that is left out."""
        source, target = self.fields
        each = CachedTokenizer(meaning_special(tokenizer, self.prefix)).encode_each

        def encode(rows: Sequence[Row]) -> Iterable[Encoded]:
            prefixed = [
                {source: self.prefix + as_text(row[source]), target: self.lead + references_of(row[target])[0]}
                for row in rows
            ]
            both = zip(rows, encode_fields(each, prefixed, self.fields), strict=True)
            return (Encoded(ids if self._complete(row) else [[], []], {}) for row, ids in both)

        return encode

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """What is put before each source, how many rows are left out, and how many right answers the others have."""
        counts = self.references[True] or self.references[False]  # these, where evaluation rows are held out
        references = [] if counts == {1} else sorted(counts)
        facts = {"prefix": self.prefix, "incomplete": self.incomplete, "references": references}
        return {name: value for name, value in facts.items() if value}

    def _complete(self, row: Row) -> bool:
        source, target = self.fields
        return bool(as_text(row[source]).strip() and references_of(row[target])[0].strip())


def kept_lengths(store: ExampleStore, examples: Ints, longest: Longest) -> Ints:
    """(R, 2) tokens of each side that are kept."""
    return np.minimum(field_lengths(store, examples), longest)


@dataclass(frozen=True)
class LayOutSides:
    """A row for each example, each side cut to its own length."""

    store: ExampleStore
    longest: Longest

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """One piece each: it begins where the example does, and is as long as what is kept of both sides."""
        kept = kept_lengths(self.store, example_at(self.store, start), self.longest)
        return single_pieces(start, kept.sum(axis=1), draw)


@dataclass(frozen=True)
class SidesCollate:
    """Examples to a batch: both sides, the second of which the loss reads."""

    store: ExampleStore
    frames: tuple[Frame, Frame]
    """Special tokens around a source, and around a target."""
    longest: Longest
    pad_id: int
    evaluate: bool
    """The rows come along as they were read."""
    two_sided: bool
    """For an encoder-decoder, whose decoder says the target."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows."""
        examples = example_at(self.store, pieces.start)
        kept = kept_lengths(self.store, examples, self.longest)
        sides = (self._framed(examples * 2 + side, kept[:, side], self.frames[side]) for side in range(2))
        texts = [text for row in zip(*sides, strict=True) for text in row]  # source, target, source, ...
        number = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        rows, said = Ragged(np.concatenate(texts), number // 2), number % 2 == 1
        batch = answer_batch(rows, said, pad_id=self.pad_id, two_sided=self.two_sided)
        batch["examples"] = torch.from_numpy(examples)
        if self.evaluate:
            batch["rows"] = list(self.store.rows(examples.tolist()))
        return batch

    def _framed(self, fields: Ints, lengths: Ints, frame: Frame) -> list[Ints]:
        starts = self.store.field_offsets[fields]
        texts = (self.store.tokens[begin : begin + size] for begin, size in zip(starts, lengths, strict=True))
        return [np.array([*frame.before, *text, *frame.after], dtype=np.int64) for text in texts]
