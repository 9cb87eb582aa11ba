"""Batches as text for people."""

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, target_width


def show_row(batch: Batch, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A row as text: {shown>target} where the loss reads, | where a document begins, without padding.

    With a decoder, the encoder's row, and below it the targets.
    """
    if "decoder_input_ids" in batch:
        inputs = batch["input_ids"][row][batch["document_ids"][row] > 0].tolist()
        targets = batch["targets"][batch["target_index"] // target_width(batch) == row].tolist()
        shown = (" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (inputs, targets))
        return "inputs:  {}\ntargets: {}".format(*shown)
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
