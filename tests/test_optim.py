"""Which optimizer a task gets, and what is refused for it."""

from typing import Any

import pytest
import torch
from ptm_lightning.tasks import MaskedLM, SpanCorruption, Summarization

from ptm_lightning.errors import UserError
from ptm_lightning.optim import build_optimizer
from ptm_lightning.task import Task


def weights() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Embedding(5, 3))


@pytest.mark.parametrize(
    ("task", "kind", "rate", "decays"),
    [
        (MaskedLM(), torch.optim.AdamW, 1e-3, {0.0, 0.01}),
        (MaskedLM(optimizer="adafactor"), torch.optim.Adafactor, 1e-2, {0.0, 0.01}),
        (SpanCorruption(), torch.optim.Adafactor, 1e-2, {0.0}),
        (SpanCorruption(optimizer="adamw", betas=(0.5, 0.6)), torch.optim.AdamW, 1e-3, {0.0}),
        (Summarization(backbone="t5-small", optimizer="adafactor"), torch.optim.Adafactor, 1e-3, {0.0, 0.01}),
        (Summarization(backbone="t5-small"), torch.optim.AdamW, 5e-5, {0.0, 0.01}),
    ],
)
def test_the_optimizer_is_the_tasks(task: Task, kind: type, rate: float, decays: set[float]):
    optimizer = build_optimizer(task, weights())
    assert type(optimizer) is kind
    assert {group["lr"] for group in optimizer.param_groups} == {rate}
    assert {group["weight_decay"] for group in optimizer.param_groups} == decays


def test_adafactors_first_step_is_as_published():
    """With no past, the estimate is that of the gradient alone; the step is clipped, and as large as the weight."""
    module = weights()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    optimizer = build_optimizer(SpanCorruption(learning_rate=0.1), module)
    for weight in module.parameters():
        weight.grad = torch.randn(weight.shape)
    optimizer.step()
    for name, weight in module.named_parameters():
        squared = weight.grad**2
        if weight.ndim == 2:
            squared = squared.mean(1, keepdim=True) @ squared.mean(0, keepdim=True) / squared.mean()
        update = weight.grad / squared.sqrt()
        update /= max(1.0, float(update.pow(2).mean().sqrt()))
        size = max(1e-3, float(before[name].pow(2).mean().sqrt()))
        torch.testing.assert_close(weight, before[name] - 0.1 * size * update)


@pytest.mark.parametrize("arguments", [{"betas": (0.5, 0.6)}, {"eps": 1e-3}])
def test_what_adafactor_has_not_is_refused(arguments: dict[str, Any]):
    with pytest.raises(UserError, match=r"is AdamW's, adafactor has none; give --model.optimizer adamw"):
        MaskedLM(optimizer="adafactor", **arguments)
