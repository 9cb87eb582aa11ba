"""Texts to predict for, with the ids their predictions are known by, read as they are needed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.sources import is_blank, read, resolve
from ptm_lightning.errors import UserError

FOREVER = 2**31
"""Windows of a stream whose end isn't known."""
PREDICT_ROWS = 32
"""Texts of a batch to predict for."""
WINDOW = 64
"""Batches of a window."""


class Text(NamedTuple):
    """One input of `predict`."""

    id: str
    """The row's own `id`, or its number from 0."""
    text: str
    row: Mapping[str, Any] = MappingProxyType({})
    """All its columns."""
    length: int = 0
    """Characters of the columns that the model reads."""
    blank: bool = False
    """Whether there is nothing to read, so that nothing is predicted."""


class Done(NamedTuple):
    """The first inputs, for which there are predictions."""

    inputs: int = 0
    """How many."""
    digest: str = ""
    """Of what they are."""


class Window:
    """Some inputs, in batches of those of like length, which are made when they are asked for.

    It is no collection to Lightning, which would move all of its batches to the device at once.
    """

    def __init__(self, texts: list[Text], collate: Callable[[list[Text]], Batch], size: int, done: Done) -> None:
        self.texts, self.collate, self.size = texts, collate, size
        self.done = done
        """With this window."""
        there = (number for number, text in enumerate(texts) if not text.blank)
        self.order = sorted(there, key=lambda number: -texts[number].length)

    def __iter__(self) -> Iterator[Batch]:
        """The longest inputs first: what doesn't fit into the memory shows at once."""
        for begin in range(0, len(self.order), self.size):
            yield self.collate([self.texts[number] for number in self.order[begin : begin + self.size]])

    def in_order(self, predictions: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The predictions for each batch as predictions for the inputs in their own order, None for blank ones."""
        found = list(chain.from_iterable(predictions))
        if len(found) != len(self.order):
            raise ValueError(f"{len(self.order)} inputs give {len(found)} predictions")
        by_number = dict(zip(self.order, found, strict=True))
        return [
            {"id": text.id, "text": text.text, "prediction": None} if text.blank else by_number[number]
            for number, text in enumerate(self.texts)
        ]


def predict_texts(
    sources: list[str] | None,
    texts: list[str] | None,
    columns: Mapping[str, str] | None,
    split_text: Literal["blank_line", "line"] = "line",
    required: Sequence[str] = ("text",),
) -> Iterator[Text]:
    """All inputs, in order: the texts given right here, then those of the sources, blank ones too.

    Args:
        sources: Files and other sources of rows.
        texts: Given right here.
        columns: The task's column: the user's. Those that only training reads may be missing.
        split_text: What divides the texts of a .txt file.
        required: The columns of text; the first one is "the text".

    Raises:
        UserError: There is none; or, while iterating, one can't be read.
    """
    flag = "--data.predict"
    if texts and len(required) > 1:
        raise UserError(f"--text: the task needs {' and '.join(required)}; give rows with both by {flag}")
    found = resolve(sources or (), flag)
    columns = {ours: theirs for ours, theirs in (columns or {}).items() if ours in (*required, "id")}
    read_rows = (
        read(source, flag, split_text=split_text, columns=columns, required=required, keep_blank=True)
        for source in found
    )
    rows: Iterator[dict[str, Any]] = chain(
        ({required[0]: text} for text in texts or ()), chain.from_iterable(read_rows)
    )
    i = -1
    for i, row in enumerate(rows):
        texts_of_row = [as_text(row[name]) for name in required]
        blank = i >= len(texts or ()) and is_blank(row, required)
        yield Text(str(row.get("id", i)), texts_of_row[0], row, sum(map(len, texts_of_row)), blank)
    if i < 0:
        raise UserError(f'{flag}: nothing to predict for; give --text "..." or a source')


@dataclass(frozen=True)
class PredictLoader:
    """Windows of texts, read when they are asked for; of a `size` of 1, each text by itself."""

    texts: Callable[[], Iterable[Text]]
    collate: Callable[[list[Text]], Batch]
    size: int
    """Texts of a batch."""
    rank: int = 0
    processes: int = 1
    done: Done = field(default_factory=Done)
    """What is left out."""

    def __iter__(self) -> Iterator[Window]:
        """This process's windows, in order."""
        return islice(self._windows(), self.rank, None, self.processes)

    def __len__(self) -> int:
        """Without a length Lightning would read one window ahead, and a dialogue over a pipe would stand still."""
        return FOREVER

    def _windows(self) -> Iterator[Window]:
        """All windows, each with a digest of all inputs up to its end."""
        texts, seen, count = iter(self.texts()), blake2b(digest_size=16), self.done.inputs

        def take(size: int) -> list[Text]:
            taken = list(islice(texts, size))
            for text in taken:
                seen.update(json.dumps([text.id, dict(text.row)], default=str).encode())
            return taken

        rows = self.size * WINDOW if self.size > 1 else 1
        for begin in range(0, count, rows):
            take(min(rows, count - begin))
        if count and seen.hexdigest() != self.done.digest:
            raise UserError(
                f"--data.predict: the first {count:,} inputs aren't those that --output has predictions for; give "
                "another --output to start anew"
            )
        while window := take(rows):
            count += len(window)
            yield Window(window, self.collate, self.size, Done(count, seen.hexdigest()))


def text_batch(texts: list[Text], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Batch:
    """Texts as rows, framed and cut to `max_length`; the loss would read every token that the text itself has."""
    coded = tokenizer(
        [text.text for text in texts],
        padding=True,
        truncation=True,
        max_length=max_length,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    ids, real = coded["input_ids"], coded["attention_mask"]
    return Batch(
        input_ids=ids,
        document_ids=real,
        position_ids=torch.arange(ids.shape[1]).expand_as(ids),
        target_index=torch.nonzero((coded["special_tokens_mask"] == 0).flatten()).squeeze(1),
        padded=bool((real == 0).any()),
        packed=False,
        texts=[(text.id, text.text) for text in texts],
    )
