"""Batches as text for people."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, target_width
from ptm_lightning.data.noise import Ints

AROUND = 5
"""Tokens on either side of a place that is shown."""


def show_row(batch: Batch, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A row as text: {shown>target} where the loss reads, | where a document begins, without padding.

    With a decoder, the encoder's row, and below it the targets.
    """
    if "decoder_input_ids" in batch:
        return _show_sides(batch, row, tokenizer)
    width = batch["input_ids"].shape[1]
    places = batch["target_index"].tolist()
    targets = {
        place % width: target
        for place, target in zip(places, batch["targets"].tolist(), strict=True)
        if place // width == row
    }
    words = []
    previous = 0
    for column, (token, document) in enumerate(
        zip(batch["input_ids"][row].tolist(), batch["document_ids"][row].tolist(), strict=True)
    ):
        if document == 0:
            break
        shown = str(tokenizer.convert_ids_to_tokens(token))
        if document != previous:
            shown = f"|{shown}"
        previous = document
        if column in targets:
            shown = f"{{{shown}>{tokenizer.convert_ids_to_tokens(targets[column])}}}"
        words.append(shown)
    return " ".join(words)


def show_place(ids: Tensor | Ints, place: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A token and some text around it.

    Args:
        ids: (R, T)
        place: One of the R * T places.
        tokenizer: For words.
    """
    row, column = divmod(place, ids.shape[1])
    nearby = ids[row, max(0, column - AROUND) : column + AROUND + 1].tolist()
    return f"{tokenizer.convert_ids_to_tokens(int(ids[row, column]))!r} in {tokenizer.decode(nearby)!r}"


def decoded(tokenizer: PreTrainedTokenizerFast, columns: Mapping[str, Sequence[list[int]]]) -> list[dict[str, str]]:
    """Columns of token ids as rows of text, for `Task.examples`."""
    shown = {name: [str(tokenizer.decode(ids)) for ids in rows] for name, rows in columns.items()}
    return [dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)]


def _show_sides(batch: Batch, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    inputs = batch["input_ids"][row][batch["document_ids"][row] > 0]
    targets = batch["targets"][batch["target_index"] // target_width(batch) == row]
    shown = (" ".join(tokenizer.convert_ids_to_tokens(ids.tolist())) for ids in (inputs, targets))
    return "inputs:  {}\ntargets: {}".format(*shown)
