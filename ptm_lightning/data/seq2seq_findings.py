"""What every encoder-decoder's batches must keep, held against the text that they were made of: for `check`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Frame
from ptm_lightning.data.seq2seq import FlatRows, prompts
from ptm_lightning.findings import Finding, faults


class Seq2SeqRow(NamedTuple):
    """A row before the noise and after it."""

    text: list[int]
    """With the frame's special tokens."""
    inputs: list[int]
    targets: list[int]
    """With their end."""


def noised_rows(text: FlatRows, batch: Batch) -> list[Seq2SeqRow]:
    """The rows of a batch beside those that it was made of, without padding."""
    before: list[list[int]] = [[] for _ in batch["input_ids"]]
    for token, row in zip(text.ids.tolist(), text.row.tolist(), strict=True):
        before[row].append(token)
    targets = iter(batch["targets"].tolist())
    after = [[next(targets) for _ in range(length)] for length in batch["decoder_lengths"].tolist()]
    return [Seq2SeqRow(*sides) for sides in zip(before, prompts(batch), after, strict=True)]


def framed(ids: list[int], frame: Frame) -> bool:
    """Whether a row begins and ends with the frame's special tokens."""
    return (*ids[: len(frame.before)],) == frame.before and (*ids[len(ids) - len(frame.after) :],) == frame.after


def excerpts(rows: Iterable[Seq2SeqRow], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Rows in words: the input and the target that were made of a text."""
    return [
        f"of {_beginning(row.text, tokenizer)} came {_beginning(row.inputs, tokenizer)} "
        f"and the target {_beginning(row.targets, tokenizer)}"
        for row in rows
    ]


def _beginning(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    return repr(str(tokenizer.decode(ids[:40])))


def seq2seq_findings(
    rows: Sequence[Seq2SeqRow], batches: Sequence[Batch], max_length: int, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Finding]:
    """What holds whatever the noise is: lengths, and a decoder that reads its targets one place later.

    Args:
        rows: Of all batches.
        batches: The batches.
        max_length: Tokens of the longest row, on either side.
        tokenizer: For examples in words.
    """
    too_long = [row for row in rows if max(len(row.inputs), len(row.targets)) > max_length]
    yield faults("rows longer than max_length", excerpts(too_long, tokenizer), len(rows))
    shifted = []
    for batch in batches:
        read, targets = batch["decoder_input_ids"], torch.split(batch["targets"], batch["decoder_lengths"].tolist())
        for given, said in zip(read, targets, strict=True):
            if not given[1 : len(said)].equal(said[:-1]):
                shifted.append(f"{_beginning(given.tolist(), tokenizer)} for {_beginning(said.tolist(), tokenizer)}")
    yield faults("decoder inputs not the targets one place later", shifted, len(rows))
    places = sum(batch["document_ids"].numel() for batch in batches)
    padding = sum(int((batch["document_ids"] == 0).sum()) for batch in batches)
    yield Finding("padding among the encoder's places", "", f"{padding / places:.2%}")
