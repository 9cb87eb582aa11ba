"""Attention on a CPU, and on CUDA within documents, for all architectures that let it be chosen.

On a CPU torch's has no fused kernel with dropout, none whose backward pass is fast without, and its forward pass is
slow where rows are short.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ptm_lightning.models.documents import DocumentMask, attention_by_documents, has_kernel
from ptm_lightning.models.dropout import draw_kept, dropped_share, keep_some

ATTENTION = "ptm_sdpa"
"""The name to ask transformers for, where the architecture `lets_choose`."""
LONGEST = 1024
"""Keys in training; beyond them torch's attention without dropout is used, for it keeps nothing of queries by keys."""
LONGEST_EVALUATED = 256
"""The same without gradients: beyond them torch's is as fast."""


@cache
def lets_choose(model_class: type[nn.Module]) -> bool:
    """Whether an architecture finds its attention by any name; the code of some compares the name with "sdpa"."""
    source = inspect.getsource(inspect.getmodule(model_class) or model_class)
    return "ALL_ATTENTION_FUNCTIONS" in source and '"sdpa"' not in source


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' "sdpa" gives, on a CPU by a function of ours; the gradients are the same.

    It computes in float32 at least, which is faster there than bfloat16. On CUDA a `DocumentMask` isn't built in half
    precision without dropout: `attention_by_documents` takes its place.

    Args:
        module: The layer's attention.
        query: (B, H, T, D)
        key: (B, H or fewer, S, D)
        value: (B, H or fewer, S, E)
        attention_mask: bool, true where a query may look, or to be added to the scores; of a shape that expands to
            (B, H, T, S).
        dropout: Share of the attention that is dropped.
        scaling: Of the scores. Default: 1 / sqrt(D).
        is_causal: Whether, without a mask, a query sees no later key. Default: the module says.
        position_bias: To be added to the scores, of a shape that expands to theirs.
        others: What transformers passes on to any attention.

    Returns:
        (B, T, H, E), and None in the place of the weights.
    """
    if isinstance(attention_mask, DocumentMask):
        plain = dropout == 0 and position_bias is None and others.get("softcap") is None
        if plain and has_kernel(query, value):
            return attention_by_documents(query, key, value, attention_mask, scaling), None
        attention_mask = attention_mask.built()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not _suits(query, key, dropout, others):
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **others,
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (shared.repeat_interleave(groups, dim=1) for shared in (key, value))
    length, keys = query.shape[2], key.shape[2]
    if attention_mask is None and causal and length > 1:
        attention_mask = torch.ones(length, keys, dtype=torch.bool).tril()
    bias = _bias(attention_mask, position_bias)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        inputs = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (query, key, value))
        output: Tensor = _Attention.apply(*inputs, bias, scale, dropout)  # type: ignore[no-untyped-call]
    return output.to(query.dtype), None


def _suits(query: Tensor, key: Tensor, dropout: float, others: Mapping[str, Any]) -> bool:
    """Whether our function is to compute the attention, and not torch's."""
    longest = LONGEST if torch.is_grad_enabled() else LONGEST_EVALUATED
    fits = key.shape[2] <= longest if dropout == 0 else dropped_share(dropout) < 1
    plain = others.get("softcap") is None and others.get("cache") is None
    return fits and plain and query.device.type == "cpu" and not torch.compiler.is_compiling()


def _bias(mask: Tensor | None, position_bias: Tensor | None) -> Tensor | None:
    """What is added to the scores."""
    if mask is None:
        return position_bias
    if mask.dtype != torch.bool:
        return mask if position_bias is None else position_bias + mask
    added = torch.zeros(mask.shape) if position_bias is None else position_bias
    return torch.where(mask, added, torch.finfo(added.dtype).min)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        """The softmax stays until the backward pass, and which of it is dropped, a byte each."""
        rows, heads = query.shape[:2]
        query, key, value = (each.reshape(rows * heads, *each.shape[2:]) for each in (query, key, value))
        scores = torch.baddbmm(query.new_empty(()), query, key.mT, beta=0, alpha=scale)
        if bias is not None:
            torch.unflatten(scores, 0, (rows, heads)).add_(bias)
        chances = torch.softmax(scores, dim=-1)
        kept = draw_kept(chances.shape, dropout) if dropout else None
        seen = chances if kept is None else keep_some(chances, kept, dropout, out=scores)
        ctx.save_for_backward(query, key, value, chances, kept)
        ctx.settings = (rows, heads, scale, dropout, None if bias is None else bias.shape)
        return torch.unflatten(seen @ value, 0, (rows, heads)).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """The chain of the same steps."""
        query, key, value, chances, kept = ctx.saved_tensors
        rows, heads, scale, dropout, bias_shape = ctx.settings
        outer = outer.transpose(1, 2).reshape(rows * heads, -1, value.shape[-1])
        seen, of_seen = chances, outer @ value.mT
        if kept is not None:
            seen, of_seen = keep_some(chances, kept, dropout), keep_some(of_seen, kept, dropout, out=of_seen)
        of_value = seen.mT @ outer
        of_scores = torch._softmax_backward_data(of_seen, chances, -1, chances.dtype)
        of_bias = None
        if ctx.needs_input_grad[3]:
            of_bias = torch.unflatten(of_scores, 0, (rows, heads)).sum_to_size(bias_shape)
        empty = query.new_empty(())
        of_query = torch.baddbmm(empty, of_scores, key, beta=0, alpha=scale)
        of_key = torch.baddbmm(empty, of_scores.mT, query, beta=0, alpha=scale)
        by_head = (torch.unflatten(each, 0, (rows, heads)) for each in (of_query, of_key, of_value))
        return *by_head, of_bias, None, None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
