"""AdamW with decay only where it belongs, and learning-rate schedules as functions of the optimizer step."""

import math
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["linear", "cosine", "inverse_sqrt", "constant", "wsd"]

WSD_DECAY_SHARE = 0.2
"""The last part of a warmup-stable-decay schedule, in which the rate falls to zero."""

_NO_DECAY = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay, by the kind of module they belong to.

    Biases, embeddings and normalisation (all parameters of one dimension) aren't decayed. A tied weight counts once;
    what doesn't require a gradient is left out.

    Args:
        module: The network.
        weight_decay: Decay of all other parameters.

    Returns:
        Two groups for an optimizer; an empty one is left out.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen = set()
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            spared = isinstance(child, _NO_DECAY) or parameter.ndim < 2
            (plain if spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    module: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """The fused AdamW, which torch has for CPU and CUDA alike (arXiv:1711.05101)."""
    optimizer = torch.optim.AdamW(
        parameter_groups(module, weight_decay), lr=learning_rate, betas=betas, eps=eps, fused=True
    )
    # Gradients are unscaled before they are clipped, not inside the step; with this true, Lightning refuses to clip.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Warm-up in steps, from steps (1 or more) or a share of the run (less than 1)."""
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


def schedule_factor(schedule: Schedule, step: int, total_steps: int, warmup: int) -> float:
    """What the peak learning rate is multiplied with at an optimizer step.

    Args:
        schedule: "linear" and "cosine" fall to zero at the end; "inverse_sqrt" falls with the square root of the step;
            "constant" stays; "wsd" (warmup-stable-decay, arXiv:2404.06395) stays and falls linearly in the last fifth.
        step: From 0.
        total_steps: The run's length.
        warmup: Steps of linear rise from zero.

    Returns:
        A factor in [0, 1].
    """
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
