"""The sum and its gradient are torch's, whatever the precision and however many stretches there are."""

import pytest
import torch
from torch.nn import functional

from ptm_lightning import cross_entropy
from ptm_lightning.cross_entropy import summed_cross_entropy


def loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor, ours: bool) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    loss = summed_cross_entropy(leaf, targets)
    if not ours:
        loss = functional.cross_entropy(leaf.float(), targets, reduction="sum")
    (loss * 0.37).backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 7, 64])
@pytest.mark.parametrize("spread", [1, 10, 100])
def test_equals_torch(dtype: torch.dtype, rows: int, spread: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_entropy, "CPU_STRETCH", 5 * 301)  # stretches of 5 rows, the last one shorter
    generator = torch.Generator().manual_seed(rows)
    logits = (spread * torch.randn(rows, 301, generator=generator)).to(dtype)
    targets = torch.randint(301, (rows,), generator=generator)
    (loss, gradient), (right, rights) = (loss_and_gradient(logits, targets, ours) for ours in (True, False))
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss, right, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, rights, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_tokens_that_are_ruled_out_and_logits_of_any_size():
    logits = torch.tensor([[1e4, -torch.inf, -1e4, 0.0], [-torch.inf, 3.0, 3.0, 2.0]])
    targets = torch.tensor([3, 1])
    (loss, gradient), (right, rights) = (loss_and_gradient(logits, targets, ours) for ours in (True, False))
    torch.testing.assert_close(loss, right)
    torch.testing.assert_close(gradient, rights)


def test_a_loss_that_is_no_number_stays_none():
    logits = torch.tensor([[torch.nan, 1.0]])
    loss, gradient = loss_and_gradient(logits, torch.tensor([1]), ours=True)
    assert loss.isnan()
    assert gradient.isnan().all()


def test_memory_is_once_that_of_the_logits():
    """Besides the logits, forward and backward hold one tensor of their size, and small ones."""
    logits = torch.randn(4096, 1000, requires_grad=True)
    targets = torch.randint(1000, (4096,))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        summed_cross_entropy(logits, targets).backward()
    allocated = sum(size for event in profile.events() if (size := event.self_cpu_memory_usage) > 4096 * 1000)
    assert allocated <= 4096 * 1000 * 4 * 1.01, "torch's own holds three"
