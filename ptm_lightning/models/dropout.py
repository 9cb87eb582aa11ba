"""Dropout as a function of where in the run a micro-batch stands, and from few random bits on a CPU."""

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.random import SFC64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ptm_lightning.data.noise import Purpose, hash_number
from ptm_lightning.levers import is_on

LEVELS = 2**16
"""Shares of dropout are multiples of 1 / LEVELS."""


def seed_dropout(seed: int, step: int, micro_batch: int, device: torch.device) -> None:
    """Seeds torch's generators for one micro-batch, whatever was drawn from them before.

    Args:
        seed: The run's.
        step: Optimizer steps done.
        micro_batch: Its number in the step, over all processes.
        device: Where the network is.
    """
    number = hash_number(seed, step, micro_batch, Purpose.DROPOUT) >> 1
    torch.default_generator.manual_seed(number)  # 1 microsecond; torch.manual_seed takes a hundred times that
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


class Dropout(nn.Dropout):
    """`nn.Dropout`, several times faster on a CPU.

    torch draws a number for each element there, on one core. Here 16 random bits decide: the share that is dropped is
    the nearest multiple of 1/65,536, and what is left is scaled by exactly that share. What is compiled drops as torch
    does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input, some of it set to zero in training."""
        ours = self.training and input.device.type == "cpu" and 0 < dropped_share(self.p) < 1
        if not ours or torch.compiler.is_compiling():
            return super().forward(input)
        output: Tensor = _Dropout.apply(input, self.p)  # type: ignore[no-untyped-call]
        return output


def use_fast_dropout(network: nn.Module) -> None:
    """Puts `Dropout` in the place of each `nn.Dropout`; what a network drops by a function call stays torch's."""
    if not is_on("dropout"):
        return
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))


def keep_some(values: Tensor, kept: Tensor, share: float, out: Tensor | None = None) -> Tensor:
    """Sets what isn't kept to zero, and scales the rest so that the mean is what it was.

    Args:
        values: Of any shape.
        kept: Of the same, from `draw_kept`.
        share: The same as was drawn with.
        out: Where to write, if not to new memory.
    """
    return torch.mul(values, kept, out=out).mul_(1 / (1 - dropped_share(share)))


def draw_kept(shape: torch.Size, share: float) -> Tensor:
    """Draws what isn't dropped, seeded by torch's generator of the CPU.

    Args:
        shape: The shape.
        share: Of dropped elements, between 0 and 1.

    Returns:
        uint8 of the shape, 1 for kept: a product with it is twice as fast as with a bool.
    """
    bits = SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(-(-prod(shape) // 4)).view(np.int16)
    levels = torch.from_numpy(bits)[: prod(shape)].view(shape)
    return (levels >= round(share * LEVELS) - LEVELS // 2).view(torch.uint8)


def dropped_share(share: float) -> float:
    """The share that is really dropped where `share` is asked for."""
    return round(share * LEVELS) / LEVELS


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float) -> Tensor:
        """What is left, scaled; which that is takes a byte each until the backward pass."""
        kept = draw_kept(values.shape, share)
        ctx.save_for_backward(kept)
        ctx.share = share
        return keep_some(values, kept, share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """The same for the gradient."""
        (kept,) = ctx.saved_tensors
        return keep_some(outer, kept, ctx.share), None
