"""One or two texts with a tokenizer's special tokens around them, as rows: what the tokenizer itself does, by arrays.

Shapes: R rows of T places, k fields (one or two).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.noise import Bools, Ints

PROBE = "a"


@dataclass(frozen=True)
class Template:
    """The special tokens before, between and after the fields of a row, and the token types."""

    special: tuple[tuple[int, ...], ...]
    """(k + 1) the ids before the first field, behind it, and so on."""
    special_types: tuple[tuple[int, ...], ...]
    """Their token types."""
    field_types: tuple[int, ...]
    """(k) token type of each field."""
    pad_id: int
    pads_left: bool

    @classmethod
    def of(cls, tokenizer: Any, fields: int) -> "Template":
        """What a fast tokenizer puts around one or two texts."""
        encoding = tokenizer(*([PROBE] * fields)).encodings[0]
        special: list[list[int]] = [[] for _ in range(fields + 1)]
        special_types: list[list[int]] = [[] for _ in range(fields + 1)]
        field_types, behind = [0] * fields, 0
        for id_, type_, field in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if field is None:
                special[behind].append(id_)
                special_types[behind].append(type_)
            else:
                field_types[field], behind = type_, field + 1
        pad = tokenizer.pad_token_id
        return cls(
            tuple(map(tuple, special)),
            tuple(map(tuple, special_types)),
            tuple(field_types),
            0 if pad is None else pad,
            tokenizer.padding_side == "left",
        )

    def __len__(self) -> int:
        """How many special tokens a row has."""
        return sum(map(len, self.special))

    def special_columns(self, lengths: Ints) -> Ints:
        """(R, k + 1): the columns at which the special tokens before, between and after the fields begin in `rows`.

        Args:
            lengths: (R, k) tokens of the fields.
        """
        totals = lengths.sum(axis=1) + len(self)
        first = totals.max() - totals if self.pads_left else np.zeros_like(totals)
        before = np.cumsum([0, *map(len, self.special[:-1])])
        columns: Ints = np.column_stack([first, first[:, None] + np.cumsum(lengths, axis=1)]) + before
        return columns

    def rows(self, tokens: NDArray[Any], starts: Ints, lengths: Ints) -> Batch:
        """Rows of fields.

        Args:
            tokens: Where the fields' ids lie.
            starts: (R, k) where each field begins there.
            lengths: (R, k) how many of its ids are taken.

        Returns:
            input_ids, document_ids, position_ids and token_type_ids (R, T), padded and packed; the rest is the task's.
        """
        count = len(starts)
        totals = lengths.sum(axis=1) + len(self)
        width = int(totals.max())
        column = width - totals if self.pads_left else np.zeros(count, dtype=np.int64)
        first = column[:, None].copy()
        ids = np.full((count, width), self.pad_id, dtype=np.int64)
        types = np.zeros((count, width), dtype=np.int64)
        for part in range(2 * len(self.special) - 1):
            field, inside = divmod(part, 2)
            size = lengths[:, field] if inside else np.full(count, len(self.special[field]))
            row = np.repeat(np.arange(count), size)
            within = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
            place = column[row] + within
            if inside:
                ids[row, place] = tokens[starts[row, field] + within]
                types[row, place] = self.field_types[field]
            else:
                ids[row, place] = np.array(self.special[field], dtype=np.int64)[within]
                types[row, place] = np.array(self.special_types[field], dtype=np.int64)[within]
            column += size
        real = (np.arange(width) >= first) & (np.arange(width) < column[:, None])
        batch = Batch(
            input_ids=torch.from_numpy(ids),
            document_ids=torch.from_numpy(real.astype(np.int64)),
            position_ids=torch.from_numpy(np.clip(np.arange(width) - first, 0, None)),
            padded=not bool(real.all()),
            packed=False,
        )
        if types.any():
            batch["token_type_ids"] = torch.from_numpy(types)
        return batch


def fit_fields(lengths: Ints, budget: int) -> Ints:
    """How much of each field is kept so that a row keeps its budget: the longest field is shortened first.

    Args:
        lengths: (R, k) tokens of the fields, k one or two.
        budget: Tokens of a row without the special ones.

    Returns:
        (R, k), the same as transformers' `longest_first`.
    """
    if lengths.shape[1] == 1:
        return np.minimum(lengths, budget)
    short, long = lengths.min(axis=1), lengths.max(axis=1)
    fits: Bools = short + long <= budget
    shorter = np.where(fits, short, np.minimum(short, budget // 2))
    longer = np.where(fits, long, np.minimum(long, budget - shorter))
    first_is_longer = lengths[:, 0] > lengths[:, 1]
    return np.stack([np.where(first_is_longer, longer, shorter), np.where(first_is_longer, shorter, longer)], axis=1)
