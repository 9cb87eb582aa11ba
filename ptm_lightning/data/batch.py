"""The one batch schema, and rows of framed tokens made from the pieces of a plan.

Shapes: R rows of T places, N targets, n content tokens (those of the text, without special tokens and padding).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.sequences import Sequences

CHANCE_BITS = 30


class Batch(TypedDict, total=False):
    """What a data module gives and a task takes, for every layout."""

    input_ids: Tensor
    """(R, T)"""
    document_ids: Tensor
    """(R, T) 0 is padding; places see those of the same number in their row."""
    position_ids: Tensor
    """(R, T) from 0, anew in each document; the network's own offset is added by the task."""
    target_index: Tensor
    """(N,) places that the loss reads, as indices into the R * T places."""
    targets: Tensor
    """(N,) the right ids there."""
    padded: bool
    """Whether any place is padding."""
    packed: bool
    """Whether any row holds several isolated documents."""
    sequences: Sequences
    """On CUDA only: of packed or padded rows."""
    token_type_ids: Tensor
    """(R, T) 0 in the first of two segments, 1 in the second, 2 for a cls token with a segment of its own."""
    order: Tensor
    """(R, T) permutation language modelling only: the step at which a place is predicted; 0 is seen by all."""
    most_targets: int
    """Permutation language modelling only: the targets of the row that has most, at least 1."""
    decoder_input_ids: Tensor
    """(R, U) encoder-decoders only: the targets, one place later. The first column is the config's start token, which
    `network_inputs` writes; target_index points into these R * U places."""
    decoder_lengths: Tensor
    """(R,) real tokens of each row of the decoder."""
    labels: Tensor
    """(R,) the right class of each row, where the task has one; (R, L) 0 or 1 for each of several; (R,) numbers."""
    examples: Tensor
    """(R,) labelled rows only: the numbers of their examples in the store, or in prediction among those asked for."""
    windows: Tensor
    """(R,) windows of long texts only: a number that no other window of the store has, rising within a text."""
    words: Tensor
    """(N,) token classification only: the numbers of the targets' words in their texts."""
    spans: Tensor
    """(R, 2) question answering only: the places of the answer's first and last token; of no answer `nulls` twice."""
    nulls: Tensor
    """(R,) question answering only: the place that means that there is no answer in the row."""
    characters: Tensor
    """(R, T, 2) evaluation and prediction of spans only: where the token of a text begins and ends in it; else -1."""
    counts: dict[str, int]
    """How much of each term the batch holds, by the term's name, and "tokens", those that aren't padding; with a
    decoder those of the text before it was corrupted, as the plan counts them."""
    fresh: Tensor
    """(N,) evaluation only: whether a target lies in a sentence that training does not contain."""
    bytes: float
    """Evaluation of causal and masked language models only: bytes (UTF-8) of the text that the targets stand for."""
    part: str
    """Mixtures only: the name of the part that the batch belongs to."""
    chances: Tensor
    """(N,) replaced token detection only: integers below 2**CHANCE_BITS that decide what a target is replaced by."""
    texts: list[tuple[str, str]]
    """Prediction only: (id, text) of each row."""
    rows: list[dict[str, Any]]
    """(R) where metrics or predictions need them: the examples' columns as they were read."""
    step_counts: dict[str, int]
    """The same, summed over all micro-batches and processes of the optimizer step. The loader writes it."""


def target_width(batch: Batch) -> int:
    """The length of the rows that `target_index` points into: the decoder's, where there is one."""
    rows = batch["decoder_input_ids"] if "decoder_input_ids" in batch else batch["input_ids"]
    return int(rows.shape[1])


def real_places(batch: Batch) -> Tensor:
    """(R, T) or, with a decoder, (R, U) bool: places that aren't padding, to some of which `target_index` points."""
    if "decoder_input_ids" not in batch:
        return batch["document_ids"] > 0
    return torch.arange(target_width(batch)) < batch["decoder_lengths"][:, None]


def other_documents(batch: Batch, number: int) -> Tensor:
    """(R, T) bool: padding, other rows, and other documents of the row that the batch's nth target stands in.

    With a decoder, a row's target sees all of the encoder's row.
    """
    ids = batch["document_ids"]
    row, place = divmod(int(batch["target_index"][number]), target_width(batch))
    others = torch.ones_like(ids, dtype=torch.bool)
    mine = 1 if "decoder_input_ids" in batch else ids[row, place]
    others[row] = (ids[row] != mine) | (ids[row] == 0)
    return others


def later_places(batch: Batch, number: int) -> Tensor:
    """(R, T) bool: what follows, in its row, the place from which a causal network predicts the batch's nth target."""
    later = torch.zeros_like(batch["document_ids"], dtype=torch.bool)
    row, place = divmod(int(batch["target_index"][number]), later.shape[1])
    later[row, place + 1 :] = True
    return later


def in_parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch by so many rows at a time, for a text may have thousands of them; what isn't by row stays whole.

    Sequences, which are of all the rows, are left out.
    """
    rows = len(batch["input_ids"])
    for begin in range(0, rows, size):
        part: Any = {
            name: value[begin : begin + size] if isinstance(value, Tensor | list) and len(value) == rows else value
            for name, value in batch.items()
            if name != "sequences"
        }
        yield part


class Rows(NamedTuple):
    """Framed rows, before any noise."""

    input_ids: Ints
    """(R, T)"""
    document_ids: Ints
    """(R, T) 0 is padding."""
    position_ids: Ints
    """(R, T)"""
    content: Ints
    """(n,) the content tokens' places, as indices into the R * T places."""
    offset: Ints
    """(n,) their places in the token store."""
    draw: Ints
    """(n,) how often their documents were drawn before."""
    example: Ints
    """(n,) a number for each stretch that sees itself: a document in its row, or a row of blocks."""


def frame_rows(
    pieces: Pieces, tokens: NDArray[np.unsignedinteger], frame: Frame, pad_id: int, *, isolated: bool
) -> Rows:
    """Reads the pieces' tokens and frames them with special tokens.

    Args:
        pieces: The rows' pieces, rows numbered from 0.
        tokens: The token store.
        frame: The special tokens around a text.
        pad_id: Fills the ends of shorter rows.
        isolated: Whether the pieces of a row are documents of their own ("rows", "packed") or one stream ("blocks").

    Returns:
        R rows as long as the longest.
    """
    totals = pieces.totals(frame)
    rows, width = int(pieces.row[-1]) + 1, int(pieces.row_lengths(frame).max())
    first = np.searchsorted(pieces.row, np.arange(rows))
    begin = np.cumsum(totals) - totals
    column = begin - begin[first][pieces.row]
    number = np.arange(len(totals)) - first[pieces.row] + 1 if isolated else np.ones(len(totals), dtype=np.int64)

    piece = np.repeat(np.arange(len(totals)), totals)
    within = np.arange(len(piece)) - begin[piece]
    place = (pieces.row * width + column)[piece] + within
    document_ids, position_ids = np.zeros((2, rows * width), dtype=np.int64)
    document_ids[place] = number[piece]
    position_ids[place] = within if isolated else column[piece] + within

    input_ids = np.full(rows * width, pad_id, dtype=np.int64)
    text = within - (pieces.opens * len(frame.before))[piece]
    _write(input_ids, place, text + len(frame.before), frame.before, pieces.opens[piece])
    _write(input_ids, place, text - pieces.length[piece], frame.after, pieces.closes[piece])
    inside = (text >= 0) & (text < pieces.length[piece])
    content, offset = place[inside], (pieces.start[piece] + text)[inside]
    input_ids[content] = tokens[offset]

    example = piece[inside] if isolated else content // width
    shape = (rows, width)
    return Rows(
        input_ids.reshape(shape),
        document_ids.reshape(shape),
        position_ids.reshape(shape),
        content,
        offset,
        pieces.draw[piece][inside],
        example,
    )


def as_batch(rows: Rows, targets_at: Ints, targets: Ints, *, packed: bool, counts: dict[str, int]) -> Batch:
    """Rows as tensors, with what the loss reads.

    Args:
        rows: R rows of T places.
        targets_at: (N,) places of the targets, as indices into the R * T places.
        targets: (N,) the right ids there.
        packed: Whether any row holds several isolated documents.
        counts: The count of each loss term; that of the tokens is added.
    """
    real = int((rows.document_ids > 0).sum())
    return Batch(
        input_ids=torch.from_numpy(rows.input_ids),
        document_ids=torch.from_numpy(rows.document_ids),
        position_ids=torch.from_numpy(rows.position_ids),
        target_index=torch.from_numpy(targets_at),
        targets=torch.from_numpy(targets),
        padded=real < rows.input_ids.size,
        packed=packed,
        counts=counts | {"tokens": real},
    )


def _write(input_ids: Ints, place: Ints, nth: Ints, special: tuple[int, ...], framed: NDArray[np.bool_]) -> None:
    """Writes the nth of some special tokens wherever nth is one of them and the piece is framed on that side."""
    for i, token in enumerate(special):
        input_ids[place[framed & (nth == i)]] = token
