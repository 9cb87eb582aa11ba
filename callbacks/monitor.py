"""The validation metric that tells which model is best, for every callback that asks."""

from typing import Literal

from lightning.pytorch import LightningModule

from ptm_lightning.errors import UserError

Mode = Literal["min", "max"]


def check_mode(mode: str, owner: str) -> None:
    """Refuses what is neither.

    Args:
        mode: Whether a metric's smallest or its largest value is best.
        owner: The callback, for the message.
    """
    if mode not in ("min", "max"):
        raise UserError(f"mode of {owner} is '{mode}', but must be 'min' or 'max'")


def task_metric(module: LightningModule) -> tuple[str, Mode]:
    """The task's own metric and its mode; the loss of a module that doesn't say."""
    own: tuple[str, Mode] = getattr(module, "best_by", lambda: ("val/loss", "min"))()
    return own
