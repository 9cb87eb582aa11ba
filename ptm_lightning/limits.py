"""Settings of Lightning's Trainer that would make a run inexact."""

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from ptm_lightning.checkpoint import SafeCheckpointIO
from ptm_lightning.errors import UserError


def check_trainer(trainer: Trainer) -> None:
    """Refuses limits that cut an optimizer step, and lets Lightning write checkpoints whole or not at all.

    Args:
        trainer: Before training.

    Raises:
        UserError: If `limit_train_batches` isn't a multiple of `accumulate_grad_batches`.
    """
    limit, accumulate = trainer.limit_train_batches, trainer.accumulate_grad_batches
    if isinstance(limit, int) and limit % accumulate:
        raise UserError(
            f"--trainer.limit_train_batches {limit} cuts an optimizer step of {accumulate} micro-batches; "
            "give a multiple"
        )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = SafeCheckpointIO()
