"""Lightning's Trainer: settings that would make a run inexact or change nothing, and what exactness needs of it."""

from collections.abc import Callable, Iterator
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ptm_lightning.checkpoint import SafeCheckpointIO
from ptm_lightning.errors import UserError


def check_trainer(trainer: Trainer) -> None:
    """Refuses what breaks or ignores the plan, and lets Lightning write checkpoints whole or not at all.

    Args:
        trainer: Before training.

    Raises:
        UserError: A setting would cut an optimizer step, change its size on the way, or do nothing.
    """
    for problem in _problems(trainer):
        raise UserError(f"--trainer.{problem}")
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = SafeCheckpointIO()


def _problems(trainer: Any) -> Iterator[str]:
    callbacks, limit, accumulate = trainer.callbacks, trainer.limit_train_batches, trainer.accumulate_grad_batches
    if accumulate < 1:
        yield f"accumulate_grad_batches {accumulate}: give 1 or more"
    if trainer.overfit_batches:
        yield (
            f"overfit_batches {trainer.overfit_batches}: every step has its own batch; "
            "train on a small file with --data.train and --trainer.max_epochs instead"
        )
    if isinstance(limit, int) and limit % accumulate:
        yield f"limit_train_batches {limit} cuts an optimizer step of {accumulate} micro-batches; give a multiple"
    if isinstance(limit, float) and limit != 1.0:
        yield f"limit_train_batches {limit}: a share may cut an optimizer step; give a number of micro-batches"
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        yield (
            "callbacks: GradientAccumulationScheduler changes the steps that the data are planned for; "
            "use --trainer.accumulate_grad_batches"
        )
    if every := trainer.reload_dataloaders_every_n_epochs:
        yield (
            f"reload_dataloaders_every_n_epochs {every} changes nothing: every epoch has its own order anyway; "
            "leave it out"
        )
    if not trainer._accelerator_connector.use_distributed_sampler:
        yield "use_distributed_sampler false changes nothing: the processes share the plan; leave it out"


def evaluates(trainer: Trainer | None) -> bool:
    """Whether a trainer uses the weights as they are."""
    return trainer is not None and trainer.state.fn in ("validate", "test", "predict")


def steps_of_run(trainer: Trainer, steps: Callable[[int], int]) -> int:
    """Optimizer steps of the whole run, by the first of the trainer's limits that is reached.

    Args:
        trainer: Before training.
        steps: How many optimizer steps an epoch has.

    Raises:
        UserError: The run has no end.
    """
    most, limit = trainer.max_steps, trainer.limit_train_batches
    if not trainer.max_epochs or trainer.max_epochs < 0:
        if most < 0:
            raise UserError(
                "--trainer.max_steps: give the run an end (or --trainer.max_epochs, --max_tokens, --max_hours)"
            )
        return int(most)
    total = 0
    for epoch in range(trainer.max_epochs):
        if 0 <= most <= total:
            return int(most)
        whole = steps(epoch)
        total += min(whole, limit // trainer.accumulate_grad_batches) if isinstance(limit, int) else whole
    return total if most < 0 else min(most, total)


def micro_batch(trainer: Trainer, batch_idx: int) -> int:
    """The number of a process's batch in its optimizer step, over all processes."""
    return batch_idx % trainer.accumulate_grad_batches * trainer.world_size + trainer.global_rank


def averaged_batches(trainer: Trainer) -> int:
    """Over how many micro-batches of a step Lightning and DDP average gradients that are to be summed."""
    processes = trainer.world_size if isinstance(trainer.strategy, DDPStrategy) else 1
    return trainer.accumulate_grad_batches * processes


def sync_buffers(trainer: Trainer, *, on: bool) -> None:
    """Switches what DDP does before each forward pass: in evaluation the processes have unequal numbers of batches.

    Args:
        trainer: In evaluation.
        on: Whether the processes wait for each other to exchange buffers.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = on
