"""Attention within each document of a batch of rows, by torch's kernel for sequences of many lengths.

FlashAttention-2, 2023, https://arxiv.org/abs/2307.08691

Shapes: R rows, T tokens a row, H heads of width D.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ptm_lightning.data.sequences import Sequences

MOST_WIDTH = 192
"""The widest heads that the kernel trains on every GPU that has it; it takes multiples of 8."""


class DocumentMask(Tensor):
    """A mask (R, 1, T, T) bool that is built once something reads it; `attention_by_documents` doesn't."""

    sequences: Sequences
    window: tuple[int, int]
    """How many places a query sees to its left and to its right; -1 is all."""
    _build: Callable[[], Tensor]
    _built: Tensor | None

    # else all results would be masks
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls: type["DocumentMask"],
        document_ids: Tensor,
        sequences: Sequences,
        window: tuple[int, int],
        build: Callable[[], Tensor],
    ) -> "DocumentMask":
        """Takes the place of what `build` returns."""
        rows, width = document_ids.shape
        mask: DocumentMask = Tensor._make_wrapper_subclass(
            cls, (rows, 1, width, width), dtype=torch.bool, device=document_ids.device
        )
        mask.sequences, mask.window, mask._build, mask._built = sequences, window, build, None
        return mask

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """What the function makes of the built mask."""
        arguments, named = tree_map_only(cls, cls.built, (arguments, named or {}))
        return function(*arguments, **named)

    def built(self) -> Tensor:
        """(R, 1, T, T) bool, true where a query may look."""
        if self._built is None:
            self._built = self._build()
        return self._built


def attention_by_documents(
    query: Tensor, key: Tensor, value: Tensor, mask: DocumentMask, scaling: float | None
) -> Tensor:
    """What attention with the built mask gives; time and memory grow with the documents' lengths, not with the rows'.

    Args:
        query: (R, H, T, D)
        key: (R, H or fewer, T, D)
        value: (R, H or fewer, T, D)
        mask: Of the batch.
        scaling: Of the scores. Default: 1 / sqrt(D).

    Returns:
        (R, T, H, D) in half precision.
    """
    from torch.nn.attention.varlen import varlen_attn  # a tenth of a second, which is lost elsewhere

    dtype = _dtype(query)
    q, k, v = (each.transpose(1, 2).to(dtype).flatten(0, 1) for each in (query, key, value))  # (R * T, H, D)
    ends, longest = mask.sequences
    output = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=mask.window, enable_gqa=True)
    return torch.unflatten(output, 0, (len(query), -1))  # type: ignore[arg-type]


def has_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes heads of such a type and width, on their device."""
    width = query.shape[-1]
    return (
        _dtype(query) in (torch.bfloat16, torch.float16)
        and width == value.shape[-1] <= MOST_WIDTH
        and width % 8 == 0
        and _runs_on(query.device)
    )


def _dtype(query: Tensor) -> torch.dtype:
    """Under autocast, which doesn't reach the kernel, what it would cast to."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


@cache
def _runs_on(device: torch.device) -> bool:
    """Whether this torch has the kernel, with windows and shared keys, for that device."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.__version__ >= "2.13"
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
