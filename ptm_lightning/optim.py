"""Optimizers with decay only where it belongs, and learning-rate schedules as functions of the optimizer step."""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ptm_lightning.errors import UserError

OptimizerName = Literal["adamw", "adafactor"]
Schedule = Literal["linear", "cosine", "inverse_sqrt", "constant", "wsd"]

WSD_DECAY_SHARE = 0.2
"""The last part of a warmup-stable-decay schedule, in which the rate falls to zero."""

RATES: dict[OptimizerName, tuple[float, float]] = {"adamw": (1e-3, 5e-5), "adafactor": (1e-2, 1e-3)}
"""Peak learning rates where none is given: from scratch, and from a pretrained network; Adafactor's are T5's."""

_NO_DECAY = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def parameter_groups(
    module: nn.Module, weight_decay: float, rate: Callable[[str], float] | None = None
) -> list[dict[str, Any]]:
    """Parameters with and without weight decay, by the kind of module they belong to, and by their learning rate.

    Biases, embeddings and normalisation (all parameters of one dimension) aren't decayed. A tied weight counts once;
    what doesn't require a gradient is left out.

    Args:
        module: The network.
        weight_decay: Decay of all other parameters.
        rate: The learning rate of a parameter by its name, if they differ.

    Returns:
        Groups for an optimizer: two, or two for each learning rate.
    """
    groups: dict[tuple[float | None, float], list[nn.Parameter]] = {}
    seen = set()
    for prefix, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            spared = isinstance(child, _NO_DECAY) or parameter.ndim < 2
            its_rate = rate(f"{prefix}.{name}" if prefix else name) if rate else None
            groups.setdefault((its_rate, 0.0 if spared else weight_decay), []).append(parameter)
    # Highest rate first: it is the one that is logged.
    order = sorted(groups, key=lambda key: (-(key[0] or 0.0), -key[1]))
    return [
        {"params": groups[key], "weight_decay": key[1]} | ({"lr": key[0]} if key[0] is not None else {})
        for key in order
    ]


def adamw(
    module: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    rate: Callable[[str], float] | None = None,
) -> torch.optim.AdamW:
    """The fused AdamW, which torch has for CPU and CUDA alike (arXiv:1711.05101)."""
    groups = parameter_groups(module, weight_decay, rate)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
    # Gradients are unscaled before they are clipped, not inside the step; with this true, Lightning refuses to clip.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def adafactor(
    module: nn.Module, learning_rate: float, weight_decay: float, rate: Callable[[str], float] | None = None
) -> torch.optim.Adafactor:
    """Adafactor (arXiv:1804.04235) as T5 was trained by: steps relative to the size of a weight, no momentum.

    As published, its rate never exceeds the inverse square root of the step.
    """
    return torch.optim.Adafactor(parameter_groups(module, weight_decay, rate), lr=learning_rate)


class Recipe(Protocol):
    """What a task says of its optimizer and its run."""

    optimizer: OptimizerName
    learning_rate: float | None
    schedule: Schedule
    warmup: float
    total_steps: int
    ema: float | None
    weight_decay: float
    betas: tuple[float, float]
    eps: float

    @property
    def peak_rate(self) -> float:
        """The peak learning rate."""


def build_optimizer(recipe: Recipe, module: nn.Module, rate: Callable[[str], float] | None = None) -> Optimizer:
    """The optimizer of a module's parameters; `rate` gives some of them a rate of their own, by their names."""
    if recipe.optimizer == "adafactor":
        return adafactor(module, recipe.peak_rate, recipe.weight_decay, rate)
    return adamw(module, recipe.peak_rate, recipe.weight_decay, recipe.betas, recipe.eps, rate)


def check_recipe(recipe: Recipe) -> None:
    """Refuses settings that make no sense, and those that the optimizer would ignore."""
    if recipe.optimizer not in RATES:
        raise UserError(f"--model.optimizer {recipe.optimizer}: give {' or '.join(RATES)}")
    if recipe.learning_rate is not None and recipe.learning_rate <= 0:
        raise UserError(f"--model.learning_rate {recipe.learning_rate}: give a number above 0, such as 1e-4")
    if recipe.ema is not None and not 0 <= recipe.ema < 1:
        raise UserError(f"--model.ema {recipe.ema}: give a decay of at least 0 and below 1, such as 0.999")
    for name in ("warmup", "weight_decay"):
        if getattr(recipe, name) < 0:
            raise UserError(f"--model.{name} {getattr(recipe, name)}: give 0 or more")
    for name in ("betas", "eps"):
        if recipe.optimizer != "adamw" and not _equal(getattr(recipe, name), getattr(type(recipe), name)):
            raise UserError(f"--model.{name}: is AdamW's, {recipe.optimizer} has none; give --model.optimizer adamw")


def _equal(left: Any, right: Any) -> bool:
    return bool(tuple(left) == tuple(right)) if isinstance(left, list | tuple) else bool(left == right)


def build_schedule(optimizer: Optimizer, recipe: Recipe) -> LambdaLR:
    """The learning rates of a task's run, whose length may change on the way."""
    return LambdaLR(optimizer, lambda step: schedule_factor(recipe.schedule, step, recipe.total_steps, recipe.warmup))


def schedule_factor(schedule: Schedule, step: int, total_steps: int, warmup: float) -> float:
    """What the peak learning rate is multiplied with at an optimizer step.

    Args:
        schedule: "linear" and "cosine" fall to zero at the end; "inverse_sqrt" falls with the square root of the step;
            "constant" stays; "wsd" (warmup-stable-decay, arXiv:2404.06395) stays and falls linearly in the last fifth.
        step: From 0.
        total_steps: The run's length.
        warmup: Steps of linear rise from zero; below 1 a share of the run.

    Returns:
        A factor in [0, 1].
    """
    warmup = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / max(1, step))
    if schedule == "wsd":
        return min(1.0, (total_steps - step) / max(1.0, WSD_DECAY_SHARE * total_steps)) if step < total_steps else 0.0
    return 1.0
