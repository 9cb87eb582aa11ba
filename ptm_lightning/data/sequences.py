"""Where the documents of a batch begin and end, for attention that runs within each.

Shapes: R rows of T places, S sequences in the R * T places: a row's documents, and its padding as if it were one more,
so that no place need be left out.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """The sequences of a batch, as kernels for sequences of many lengths read them."""

    cu_seqlens: Tensor
    """(S + 1,) int32: where each begins in the R * T places, and the end of the last."""
    longest: int
    """Places of the longest."""


def sequences_of(document_ids: Tensor) -> Sequences:
    """The sequences of some rows.

    Args:
        document_ids: On the CPU, for on a device it would be waited for: 0 for padding, 1, 2, ... for the documents of
            a row, each in one stretch (R, T).
    """
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    cu_seqlens = torch.cat([begins.flatten().nonzero().flatten(), torch.tensor([document_ids.numel()])])
    return Sequences(cu_seqlens.int(), int(cu_seqlens.diff().max()))


def with_sequences(batch: Any) -> Any:
    """A batch on the CPU, with its sequences if a network without a decoder would need a mask for it.

    What is no such batch stays as it is.
    """
    if not isinstance(batch, dict) or "decoder_input_ids" in batch or not (batch.get("packed") or batch.get("padded")):
        return batch
    return {**batch, "sequences": sequences_of(batch["document_ids"])}
