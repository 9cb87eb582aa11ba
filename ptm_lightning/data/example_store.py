"""Rows of columns as token ids and targets, in files mapped into memory, beside the rows as they were read.

A store is a folder: tokens.bin, fields.bin and counts.bin; rows.jsonl and row_offsets.bin; a column-NAME.npy for each
column of targets; info.json.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.noise import Bools
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.store_writer import unknown_id

BATCH = 1000
"""Rows that are tokenized at a time."""


class Encoded(NamedTuple):
    """A row, ready to be stored."""

    fields: Sequence[Sequence[int]]
    """The token ids of each field, without special tokens."""
    columns: Mapping[str, Any]
    """Targets by name: a number or an array for the example, or a list with an integer for each token."""
    counts: Mapping[str, int] = MappingProxyType({})
    """What the store counts over all rows, also over those that it leaves out."""


Encode = Callable[[Sequence[Row]], Iterable[Encoded]]


@dataclass(frozen=True)
class ExampleStore(TokenStore):
    """The examples of a split: tokens by field, columns of targets, and the rows themselves."""

    field_offsets: npt.NDArray[np.int64]
    """Field f of example i is tokens[b[k * i + f] : b[k * i + f + 1]] with k fields each, shape (examples * k + 1,)."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Targets by name, shape (examples, ...) or (tokens,)."""
    row_offsets: npt.NDArray[np.int64]
    """Where each row begins in rows.jsonl, shape (examples + 1,)."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps a finished store; reads nothing but info.json."""
        folder = Path(folder)
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))

        def mapped(name: str, dtype: str) -> npt.NDArray[Any]:
            return np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")

        field_offsets = mapped("fields", "int64")
        return cls(
            folder=folder,
            tokens=mapped("tokens", info["dtype"]) if info["tokens"] else np.zeros(0, info["dtype"]),
            offsets=field_offsets[:: info["fields"]],
            counts=mapped("counts", "int64"),
            fresh=None,
            sentence_starts=None,
            info=info,
            field_offsets=field_offsets,
            columns={name: np.load(folder / f"column-{name}.npy", mmap_mode="r") for name in info["columns"]},
            row_offsets=mapped("row_offsets", "int64"),
        )

    @property
    def fields(self) -> int:
        """Fields of an example."""
        return int(self.info["fields"])

    @property
    def counted(self) -> Counter[str]:
        """What was counted over its rows, also over those that are left out."""
        return Counter(self.info["counted"])

    def rows(self, examples: Iterable[int]) -> Iterator[Row]:
        """Some rows as they were read, under the task's column names."""
        with open(self.folder / "rows.jsonl", "rb") as file:
            for example in examples:
                begin, end = self.row_offsets[example : example + 2].tolist()
                file.seek(begin)
                yield json.loads(file.read(end - begin))


def write_examples(rows: Iterable[Row], encode: Encode, tokenizer: Tokenizer, folder: Path) -> Bools:
    """Writes a store's files into a folder, in one pass over the rows.

    Args:
        rows: Read once.
        encode: Tokenizes some rows, and makes their targets.
        tokenizer: That it tokenizes with.
        folder: Is made.

    Returns:
        (rows,) which of them are stored: those that have a token.
    """
    folder.mkdir()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype(np.uint16 if size <= 2**16 else np.uint32)
    counts, columns = np.zeros(size, dtype=np.int64), dict[str, list[Any]]()
    lengths, row_ends, text_bytes, width = [0], [0], 0, 1
    stored, counted = list[bool](), Counter[str]()
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "rows.jsonl", "wb") as lines:
        stream = iter(rows)
        for batch in iter(lambda: list(islice(stream, BATCH)), []):
            for row, (fields, targets, of_row) in zip(batch, encode(batch), strict=True):
                counted.update(of_row)
                stored.append(any(fields))
                if not stored[-1]:  # a text of control characters alone gives no token
                    continue
                ids = np.fromiter(chain.from_iterable(fields), dtype)
                tokens.write(ids.data)
                counts += np.bincount(ids, minlength=size)
                width = len(fields)
                lengths += map(len, fields)
                for name, target in targets.items():
                    columns.setdefault(name, []).append(array("i", target) if isinstance(target, list) else target)
                line = json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
                lines.write(line)
                row_ends.append(len(line))
                texts = (as_text(value) for value in row.values())
                text_bytes += sum(len(text.encode("utf-8", "replace")) for text in texts if type(text) is str)
    (folder / "fields.bin").write_bytes(np.cumsum(np.array(lengths, dtype=np.int64)).data)
    (folder / "row_offsets.bin").write_bytes(np.cumsum(np.array(row_ends, dtype=np.int64)).data)
    (folder / "counts.bin").write_bytes(counts.data)
    _save_columns(columns, folder)
    unknown = unknown_id(tokenizer)
    info = {
        "documents": len(row_ends) - 1,
        "tokens": int(counts.sum()),
        "bytes": text_bytes,
        "empty": stored.count(False),
        "unknown": 0 if unknown is None else int(counts[unknown]),
        "fields": width,
        "columns": sorted(columns),
        "counted": counted,
        "dtype": dtype.name,
    }
    (folder / "info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    return np.array(stored, dtype=np.bool_)


def _save_columns(columns: Mapping[str, Sequence[Any]], folder: Path) -> None:
    for name, values in columns.items():
        by_token = isinstance(values[0], array)
        np.save(folder / f"column-{name}.npy", np.concatenate(values) if by_token else np.array(values))
