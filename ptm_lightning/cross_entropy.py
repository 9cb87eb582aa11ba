"""Cross-entropy over a large vocabulary, by stretches of rows that fit into a processor's cache."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_STRETCH, STRETCH = 2**18, 2**26
"""Logits of a stretch, on a CPU and elsewhere."""


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """What `functional.cross_entropy(logits.float(), targets, reduction="sum")` gives, with its gradient.

    That writes the probabilities of all logits, and their gradient twice, in single precision, and each takes as much
    memory as the logits or twice as much. Here the only such tensor is the gradient, in the logits' own type;
    what lies between is computed in single precision, a stretch at a time.

    Args:
        logits: (N, vocabulary) floating point of any precision. They are kept for the backward pass: don't change them.
        targets: (N,) the right ids; unlike in torch, each counts.

    Returns:
        (,) the sum in nats, in single precision.
    """
    loss: Tensor = _SummedCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum; kept are each row's largest logit and its chance, apart, for their sum would lose digits."""
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        top, largest = torch.empty_like(losses), torch.empty_like(losses)
        for part in stretches(logits):
            top[part] = logits[part].amax(dim=-1)
            log_chances = torch.log_softmax(logits[part], dim=-1, dtype=torch.float32)
            losses[part] = -log_chances.gather(1, targets[part, None])[:, 0]
            largest[part] = log_chances.amax(dim=-1)
        ctx.save_for_backward(logits, targets, top, largest)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """The chances, less 1 at the targets."""
        logits, targets, top, log_chance = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for part in stretches(logits):
            in_place = gradient[part] if gradient.dtype == torch.float32 else None
            chances = torch.sub(logits[part], top[part, None], out=in_place).add_(log_chance[part, None]).exp_()
            chances.scatter_add_(1, targets[part, None], chances.new_full((len(chances), 1), -1.0)).mul_(outer)
            if in_place is None:
                gradient[part] = chances
        return gradient, None


def stretches(logits: Tensor) -> list[slice]:
    """Rows of logits (N, vocabulary) that are worked on together."""
    rows, vocabulary = logits.shape
    step = max(1, (CPU_STRETCH if logits.device.type == "cpu" else STRETCH) // vocabulary)
    return [slice(begin, begin + step) for begin in range(0, rows, step)]
