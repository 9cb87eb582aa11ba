"""Texts to predict for, with the ids their predictions are known by, read as they are needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.sources import read, resolve
from ptm_lightning.errors import UserError

FOREVER = 2**31
"""Batches of a stream whose end isn't known."""


class Text(NamedTuple):
    """One input of `predict`."""

    id: str
    """The row's own `id`, or its number from 0."""
    text: str
    row: Mapping[str, Any] = MappingProxyType({})
    """All its columns."""


def predict_texts(
    sources: list[str] | None,
    texts: list[str] | None,
    columns: Mapping[str, str] | None,
    split_text: Literal["blank_line", "line"] = "line",
    required: Sequence[str] = ("text",),
) -> Iterator[Text]:
    """All inputs, in order: the texts given right here, then those of the sources.

    Args:
        sources: Files and other sources of rows.
        texts: Given right here.
        columns: The task's column: the user's.
        split_text: What divides the texts of a .txt file.
        required: The columns of text; the first one is "the text".

    Raises:
        UserError: There is none; or, while iterating, one can't be read.
    """
    flag = "--data.predict"
    if texts and len(required) > 1:
        raise UserError(f"--text: the task needs {' and '.join(required)}; give rows with both by {flag}")
    found = resolve(sources or (), flag)
    read_rows = (read(source, flag, split_text=split_text, columns=columns, required=required) for source in found)
    rows: Iterator[dict[str, Any]] = chain(
        ({required[0]: text} for text in texts or ()), chain.from_iterable(read_rows)
    )
    i = -1
    for i, row in enumerate(rows):
        yield Text(str(row.get("id", i)), as_text(row[required[0]]), row)
    if i < 0:
        raise UserError(f'{flag}: nothing to predict for; give --text "..." or a source')


@dataclass(frozen=True)
class PredictLoader:
    """Batches of texts, read when they are asked for."""

    texts: Callable[[], Iterable[Text]]
    collate: Callable[[list[Text]], Batch]
    size: int
    rank: int = 0
    processes: int = 1

    def __iter__(self) -> Iterator[Batch]:
        """This process's batches, in order."""
        texts = iter(self.texts())
        chunks = iter(lambda: list(islice(texts, self.size)), [])
        return map(self.collate, islice(chunks, self.rank, None, self.processes))

    def __len__(self) -> int:
        """Without a length Lightning would read one batch ahead, and a dialogue over a pipe would stand still."""
        return FOREVER


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
