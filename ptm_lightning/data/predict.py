"""Texts to predict for, with the ids their predictions are known by."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

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
