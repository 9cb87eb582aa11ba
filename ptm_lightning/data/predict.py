"""Texts to predict for, with the ids their predictions are known by."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.sources import read, resolve
from ptm_lightning.errors import UserError


class Text(NamedTuple):
    """One input of `predict`."""

    id: str
    """The row's own `id`, or its number from 0."""
    text: str


def predict_texts(
    sources: list[str] | None,
    texts: list[str] | None,
    split_text: Literal["blank_line", "line"],
    columns: Mapping[str, str] | None,
) -> list[Text]:
    """All inputs, in order: the texts given right here, then those of the sources."""
    rows: list[dict[str, Any]] = [{"text": text} for text in texts or ()]
    for source in resolve(sources or (), "--data.predict"):
        rows += read(source, "--data.predict", split_text=split_text, columns=columns)
    if not rows:
        raise UserError('--data.predict: nothing to predict for; give --text "..." or a source')
    return [Text(str(row.get("id", i)), row["text"]) for i, row in enumerate(rows)]


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
