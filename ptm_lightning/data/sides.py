"""Rows of two texts, a source and its target: as examples, and stored ones as batches.

Shapes: R rows.
"""

from collections.abc import Iterable, Mapping, Sequence
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
INCOMPLETE, RIGHT_ANSWERS = "incomplete", "right answers: "
"""What a store counts: rows that are left out, and others by how many right answers they have."""


class Sides:
    """Rows of two texts: a source and a target, each with what is put before it; rows that lack one are left out.

    A list of targets are several right answers; the first one is learned.
    """

    known: Sequence[str] = ()

    def __init__(self, fields: tuple[str, ...], prefix: str, lead: str) -> None:
        self.fields, self.together = fields, fields[:1]
        self.prefix, self.lead = prefix, lead
        self.key = ["sides", prefix, lead]

    def take(self, row: Row, where: str) -> None:
        """Any row of two texts will do."""

    def check(self, row: Row, where: str) -> None:
        """Any row of two texts will do."""

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Rows are not compared with those of training."""

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
            return (self._encoded(row, ids) for row, ids in both)

        return encode

    def _encoded(self, row: Row, ids: Sequence[Sequence[int]]) -> Encoded:
        if not self._complete(row):
            return Encoded([[], []], {}, {INCOMPLETE: 1})
        return Encoded(ids, {}, {f"{RIGHT_ANSWERS}{len(references_of(row[self.fields[1]]))}": 1})

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """What is put before each source."""
        return {"prefix": self.prefix} if self.prefix else {}

    def _complete(self, row: Row) -> bool:
        source, target = self.fields
        return bool(as_text(row[source]).strip() and references_of(row[target])[0].strip())


def counted_facts(stores: Mapping[str, ExampleStore]) -> dict[str, Any]:
    """What the stores of splits have counted.

    Returns:
        "incomplete": by split, how many rows are left out for a side that they lack. "references": all numbers of right
        answers that rows to evaluate have. Neither where it is as one expects: no row, or one answer each.
    """
    incomplete = {split: store.counted[INCOMPLETE] for split, store in stores.items() if store.counted[INCOMPLETE]}
    names = set[str]().union(*(store.counted for split, store in stores.items() if split != "train"))
    numbers = sorted(int(name.removeprefix(RIGHT_ANSWERS)) for name in names if name.startswith(RIGHT_ANSWERS))
    facts = {"incomplete": incomplete, "references": [] if numbers == [1] else numbers}
    return {name: value for name, value in facts.items() if value}


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
