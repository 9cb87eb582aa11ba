"""Whether ours and a peer compute the same: loss and gradient of one batch, with the same weights and no dropout."""

from collections.abc import Callable

import torch
from clock import Job
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.task import Task
from ptm_lightning.terms import step_loss


def differences(
    job: Job, task: Task, data: TaskData, batch: Batch, network: nn.Module, inputs: dict[str, Tensor]
) -> dict[str, float]:
    """Loss and gradient of ours and of transformers' own loss on one batch, same weights, no dropout.

    Theirs come first, with torch's own kernels; then ours, with the kernels that ours trains with.

    Args:
        job: Whose precision it is.
        task: Ours.
        data: Its data, set up.
        batch: One of them.
        network: Theirs.
        inputs: The batch as theirs takes it, with labels.

    Returns:
        "loss": the absolute difference; "gradient": the norm of the difference over the norm of theirs.
    """
    theirs = loss_and_gradient(job, network, lambda: network(**inputs).loss)
    prepare_cpu()
    mine = loss_and_gradient(job, built(task, data), lambda: step_loss(task.terms(batch), batch["counts"]))
    return {"loss": abs(mine[0] - theirs[0]), "gradient": float((mine[1] - theirs[1]).norm() / theirs[1].norm())}


def built(task: Task, data: TaskData) -> PreTrainedModel:
    """A task's network, without a trainer."""
    task.link = data.link
    task.configure_model()
    assert task.network is not None
    return task.network


def loss_and_gradient(job: Job, network: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """The loss and its whole gradient in a row, without dropout, in the job's precision."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
        value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    parameters = sorted(network.named_parameters())
    return value.item(), torch.cat([p.grad.flatten().double() for _, p in parameters if p.grad is not None])
