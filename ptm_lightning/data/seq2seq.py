"""What encoder-decoders need of a batch: rows of two sides, of which the second is the target.

Shapes: R rows; m tokens of the encoder and t of the targets, in reading order, row after row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, frame_rows
from ptm_lightning.data.layout import Frame, Layout, Pieces, lay_out
from ptm_lightning.data.noise import Bools, Ints
from ptm_lightning.data.predict import Text
from ptm_lightning.data.store import TokenStore
from ptm_lightning.errors import UserError


class Ragged(NamedTuple):
    """Rows of different lengths, one after the other."""

    ids: Ints
    """(m,)"""
    row: Ints
    """(m,) from 0, never decreases."""


class FlatRows(NamedTuple):
    """Framed rows of text without padding, before any noise."""

    ids: Ints
    """(m,)"""
    row: Ints
    """(m,) from 0, never decreases."""
    content: Bools
    """(m,) false for special tokens of the frame."""
    offset: Ints
    """(n,) places of the n content tokens in the token store."""
    draw: Ints
    """(n,) how often their documents were drawn before."""


def refuse_packed(layout: Layout) -> None:
    """Refuses a layout in which an encoder-decoder would see several documents as one.

    Raises:
        UserError: The layout is "packed".
    """
    if layout == "packed":
        raise UserError(
            "--data.layout packed: an encoder-decoder can't isolate packed documents; "
            "use rows (a document in each) or blocks (one stream, cut)"
        )


def closed_frame(frame: Frame, tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The tokenizer's own frame, which must end a text: the decoder learns from it where to stop.

    Args:
        frame: The tokenizer's own special tokens around a text.
        tokenizer: Gives the end, its eos or else its sep token, where the frame has none.

    Raises:
        UserError: The tokenizer has neither.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise UserError("--data.tokenizer: it has no eos (or sep) token to end a text; take one that has")
    return frame if end in frame.after else Frame(frame.before, (*frame.after, end))


def lay_out_closed(start: Ints, length: Ints, draw: Ints, *, layout: Layout, longest: int, frame: Frame) -> Pieces:
    """Rows of at most `longest` tokens of text, each with the whole frame around it.

    In "blocks" the stream has no separators and only its last row is shorter, as in T5's own code.

    Args:
        start: (d,) where each document begins in the token store.
        length: (d,) its tokens.
        draw: (d,) how often it was drawn before.
        layout: "rows" or "blocks".
        longest: Tokens of the longest row, special tokens not counted.
        frame: The special tokens around each row.
    """
    if layout == "rows":
        return lay_out(start, length, draw, layout="rows", max_length=longest + len(frame), frame=frame)
    pieces = lay_out(start, length, draw, layout="blocks", max_length=longest, frame=Frame((), ()))
    return pieces._replace(closes=np.diff(pieces.row, append=-1) != 0)


def flat_rows(pieces: Pieces, store: TokenStore, frame: Frame) -> FlatRows:
    """Reads the rows' tokens and frames them."""
    rows = frame_rows(pieces, store.tokens, frame, 0, isolated=False)
    real = np.flatnonzero(rows.document_ids.ravel())
    content = np.zeros(rows.input_ids.size, dtype=np.bool_)
    content[rows.content] = True
    ids = rows.input_ids.ravel()[real]
    return FlatRows(ids, real // rows.input_ids.shape[1], content[real], rows.offset, rows.draw)


def seq2seq_batch(inputs: Ragged, targets: Ragged, *, pad_id: int, counts: dict[str, int]) -> Batch:
    """Pads both sides; the decoder's input is the targets, one place later.

    Args:
        inputs: What the encoder reads.
        targets: What the decoder shall say, of the same number of rows.
        pad_id: Fills the ends of shorter rows, and the place of the start token, which the network's config knows.
        counts: "tokens", those of the text before it was corrupted, and the counts of the loss terms.
    """
    input_ids, real = padded(inputs, pad_id)
    labels, read = padded(targets, pad_id)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        document_ids=torch.from_numpy(real.astype(np.int64)),
        position_ids=torch.arange(input_ids.shape[1]).repeat(len(input_ids), 1),
        decoder_input_ids=torch.from_numpy(np.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=pad_id)),
        decoder_lengths=torch.from_numpy(read.sum(axis=1)),
        target_index=torch.from_numpy(np.flatnonzero(read)),
        targets=torch.from_numpy(targets.ids),
        padded=not real.all(),
        packed=False,
        counts=counts,
    )


def prompt_batch(rows: Sequence[Sequence[int]], texts: Sequence[Text], pad_id: int) -> Batch:
    """What the encoder reads of texts to predict for; the decoder is still to speak."""
    ids = np.array([token for row in rows for token in row], dtype=np.int64)
    input_ids, real = padded(Ragged(ids, np.repeat(np.arange(len(rows)), [len(row) for row in rows])), pad_id)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        document_ids=torch.from_numpy(real.astype(np.int64)),
        texts=[(text.id, text.text) for text in texts],
    )


def prompts(batch: Batch) -> list[list[int]]:
    """What is to be answered, without padding: the encoder's rows; of a causal network's what precedes the targets."""
    rows = [ids[real].tolist() for ids, real in zip(batch["input_ids"], batch["document_ids"] > 0, strict=True)]
    if "decoder_input_ids" in batch or "target_index" not in batch:
        return rows
    width, firsts = batch["input_ids"].shape[1], dict[int, int]()
    for place in reversed(batch["target_index"].tolist()):
        firsts[place // width] = place % width
    return [ids[: firsts[row] + 1] for row, ids in enumerate(rows)]


def target_rows(batch: Batch) -> list[list[int]]:
    """The targets of each row, without the end."""
    rows = torch.split(batch["targets"], batch["decoder_lengths"].tolist())
    return [row[:-1].tolist() for row in rows]


def padded(rows: Ragged, pad_id: int) -> tuple[Ints, Bools]:
    """(R, T) ids, and where they aren't padding, which is at the end."""
    lengths = np.bincount(rows.row)
    real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(real.shape, pad_id, dtype=np.int64)
    ids[real] = rows.ids
    return ids, real
