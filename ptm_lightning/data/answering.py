"""What networks need that answer what they read: an encoder-decoder beside it, a causal network in the same row.

Shapes: R rows of T places; m tokens in reading order, row after row.
"""

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.noise import Bools
from ptm_lightning.data.seq2seq import Ragged, padded, seq2seq_batch
from ptm_lightning.errors import UserError

TERM = "target_text"
"""The loss term of what is said."""
PREDICT_ROWS = 128
"""Texts of a batch to answer: a step of generation hardly takes longer for many than for few."""


def answer_batch(rows: Ragged, said: Bools, *, pad_id: int, two_sided: bool) -> Batch:
    """Rows of which the loss reads what is said.

    Args:
        rows: What is read and what is said, in order.
        said: (m,) the tokens that are said; never a row's first one.
        pad_id: Fills the ends of shorter rows.
        two_sided: For an encoder-decoder: what is said stands in rows of its own, which its decoder says.
    """
    counts = {TERM: int(said.sum()), "tokens": len(rows.ids)}
    if two_sided:
        source, target = (Ragged(rows.ids[mine], rows.row[mine]) for mine in (~said, said))
        return seq2seq_batch(source, target, pad_id=pad_id, counts=counts)
    input_ids, real = padded(rows, pad_id)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        document_ids=torch.from_numpy(real.astype(np.int64)),
        position_ids=torch.arange(input_ids.shape[1]).repeat(len(input_ids), 1),
        target_index=torch.from_numpy(np.flatnonzero(real)[said] - 1),  # a token is predicted from the one before it
        targets=torch.from_numpy(rows.ids[said]),
        padded=not real.all(),
        packed=False,
        counts=counts,
    )


def pad_of(tokenizer: PreTrainedTokenizerFast, end_id: int) -> int:
    """What fills rows: padding is known by its place, so that the end will do where the tokenizer has none."""
    pad = tokenizer.pad_token_id
    return end_id if pad is None else int(pad)


def prompt_room(max_length: int, max_target_length: int, *, two_sided: bool) -> int:
    """Tokens of the longest thing to be answered: whatever is said, a causal network has room for it behind.

    Raises:
        UserError: There is none.
    """
    room = max_length if two_sided else max_length - max_target_length
    if room < 1:
        raise UserError(
            f"--data.max_target_length {max_target_length}: leaves no room in a row of --data.max_length {max_length} "
            "for what is answered; give less"
        )
    return room
