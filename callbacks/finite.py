"""A loss that is no number any more ends the run, and never gets into a checkpoint."""

from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ptm_lightning.checkpoint import newest_valid
from ptm_lightning.errors import UserError

from .step_end import checkpoint_folder

SELDOM = 50
"""Steps between looks where nothing is logged."""
NEVER = torch.iinfo(torch.int64).max


class FiniteLoss(Callback):
    """Stops at a loss that is NaN or infinite, names the step, and lets nothing that isn't finite be saved.

    The first bad step is noted on the device, without waiting for it. It is looked at after each step on one CPU
    process, else every `trainer.log_every_n_steps` steps, and before each checkpoint.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the position."""
        self._first = torch.tensor(NEVER, device=pl_module.device)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the step if this batch's loss isn't finite, and looks now and then."""
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        assert self._first is not None
        if isinstance(loss, Tensor) and not (loss.device.type == "cpu" and isfinite(loss.item())):
            step = self._step if stepped else self._step + 1
            self._first = torch.minimum(self._first, torch.where(loss.detach().isfinite(), NEVER, step))
        alone = trainer.world_size == 1 and pl_module.device.type == "cpu"
        every = 1 if alone else trainer.log_every_n_steps or SELDOM  # type: ignore[attr-defined]
        if stepped and self._step % every == 0:
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the validation's loss: a dead network may have finite weights still."""
        loss = trainer.callback_metrics.get("val/loss")
        if self._first is not None and loss is not None and not loss.isfinite():
            self._first = self._first.clamp(max=trainer.global_step)
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks a last time."""
        self._look(trainer, pl_module)
        self._first = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuses to save weights that aren't finite."""
        if self._first is not None:
            finite = torch.stack([value.detach().isfinite().all() for value in pl_module.parameters()]).all()
            self._first = torch.minimum(self._first, torch.where(finite, NEVER, trainer.global_step))
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._first is not None
        first = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if first == NEVER:
            return
        good, _ = newest_valid(checkpoint_folder(trainer))
        rescue = f"{good} is the last good checkpoint, --init_from takes its weights" if good else "nothing was saved"
        rate = getattr(module, "peak_rate", getattr(module, "learning_rate", None))
        single = "" if trainer.precision == "32-true" else " or use --trainer.precision 32-true"
        raise UserError(
            f"the loss or the weights are not finite at step {first}: lower --model.learning_rate"
            f"{f' (now {rate})' if rate is not None else ''}{single}; {rescue}"
        )
