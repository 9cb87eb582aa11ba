"""From document ids to the attention mask that an architecture understands.

Shapes: R rows, T tokens a row. Document id 0 is padding, 1, 2, ... are the documents of a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ptm_lightning.data.sequences import Sequences
from ptm_lightning.errors import UserError
from ptm_lightning.models.documents import DocumentMask

T = TypeVar("T")

# Each is held by a test: the logits of a packed document equal those of the document alone.
BIDIRECTIONAL = frozenset(
    {
        "albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "megatron-bert", "modernbert",
        "roberta", "roberta-prelayernorm", "xlm-roberta",
    }
)  # fmt: skip
CAUSAL = frozenset({"gpt2", "llama", "qwen3"})


def isolates(config: Any) -> bool:
    """Whether documents packed in one row can be kept apart by a mask.

    Others mix relative positions, windows or a mask of their own into the attention; for them documents stay in rows of
    their own.

    Args:
        config: The network's config.
    """
    if config.model_type in CAUSAL:
        return "sliding_attention" not in (getattr(config, "layer_types", None) or ())
    return config.model_type in BIDIRECTIONAL


def attention_mask(
    config: Any, document_ids: Tensor, dtype: torch.dtype, *, packed: bool, padded: bool
) -> Tensor | dict[str, Tensor] | None:
    """The mask that keeps padding, and in packed rows the other documents, out of the attention.

    The 4-D mask is additive and float: a boolean one is right with sdpa only and leaks with eager attention.
    Causal networks isolate only with `use_cache=False`. Positions must restart with each document.

    Args:
        config: The network's config.
        document_ids: 0 for padding, 1, 2, ... for the documents of a row (R, T).
        dtype: The network's floating point type.
        packed: Whether a row holds several documents.
        padded: Whether there is any padding: known from collation, since looking would synchronise with the device.

    Returns:
        None for rows without padding; 1 for text and 0 for padding (R, T) int64; for packed rows 0 where a token may
        look and the type's minimum elsewhere (R, 1, T, T), for ModernBERT one such mask for each kind of its layers.
        Padding sees padding, so that no row of the softmax is empty.

    Raises:
        UserError: Rows are packed, and the architecture can't isolate documents.
    """
    if not packed:
        return (document_ids > 0).long() if padded else None
    if not isolates(config):
        raise UserError(
            f"--data.layout packed: {config.model_type} can't keep documents in one row apart; use ragged rows"
        )
    return _each(config, lambda window: _additive(_allowed(document_ids, window), dtype))


def document_mask(config: Any, document_ids: Tensor, sequences: Sequences) -> DocumentMask | dict[str, DocumentMask]:
    """The mask for packed or padded rows that need not be built where attention runs by documents.

    Args:
        config: The config of a network that `isolates` and finds its attention by our name.
        document_ids: 0 for padding, 1, 2, ... for the documents of a row (R, T).
        sequences: Of these rows.

    Returns:
        Boolean and of four dimensions; for ModernBERT one for each kind of its layers.
    """
    return _each(
        config,
        lambda window: DocumentMask(document_ids, sequences, window, partial(_allowed, document_ids, window)),
    )


def _each(config: Any, make: Callable[[tuple[int, int]], T]) -> T | dict[str, T]:
    """What is made of how many places a query sees to its left and to its right; -1 is all."""
    if config.model_type in CAUSAL or getattr(config, "is_decoder", False):
        return make((-1, 0))
    if config.model_type == "modernbert":  # a 4-D mask replaces the window too
        return {"full_attention": make((-1, -1)), "sliding_attention": make((config.sliding_window,) * 2)}
    return make((-1, -1))


def _allowed(document_ids: Tensor, window: tuple[int, int]) -> Tensor:
    """Whether a query sees a key: of its document, and inside the window (R, 1, T, T)."""
    allowed = document_ids[:, :, None] == document_ids[:, None, :]  # (R, T, T)
    left, right = window
    if left < 0 and right < 0:
        return allowed[:, None]
    positions = torch.arange(document_ids.shape[1], device=document_ids.device)
    distance = positions[:, None] - positions[None, :]  # (T, T), query minus key
    if left >= 0:
        allowed &= distance <= left
    if right >= 0:
        allowed &= distance >= -right
    return allowed[:, None]


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, the type's minimum elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)
