"""The one moment in an optimizer step at which a checkpoint resumes exactly."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ptm_lightning.checkpoint import SafeCheckpointIO, append_index, entry_of, step_path
from ptm_lightning.files import temporary_path


class StepEnd(Checkpoint, ABC):
    """Calls `on_step_end` once for each optimizer step, at a moment from which Lightning resumes exactly.

    In an epoch that is after a batch whose optimizer step is done, or after the validation that is due at it, since
    Lightning skips on resume a validation that is due at a step saved before it. At an epoch's end it is after the
    epoch's hooks. Being a `Checkpoint`, it comes after the other callbacks, whose state of this step (weight averages,
    early stopping) is then complete.
    """

    _step = 0
    _waits_for: Literal["", "validation", "epoch"] = ""
    _between_epochs = False

    @abstractmethod
    def on_step_end(self, trainer: Trainer, module: LightningModule, metrics: dict[str, float]) -> None:
        """The step `trainer.global_step` is complete, and may be saved.

        Args:
            trainer: Lightning's.
            module: The task.
            metrics: Of the validation at this step; empty if there was none.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes Lightning write and read by our own input and output, unless the user chose another."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SafeCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the position, and removes what a killed write has left."""
        self._step, self._waits_for = trainer.global_step, ""
        if trainer.is_global_zero:
            for litter in checkpoint_folder(trainer).glob(temporary_path(Path("step=*.ckpt")).name):
                litter.unlink()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is complete if the optimizer stepped and neither a validation nor the epoch's end is to come."""
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped:
            self._waits_for = ""
        elif validates_now(trainer):
            self._waits_for = "validation"
        elif trainer.is_last_batch:
            self._waits_for = "epoch"
        else:
            self._waits_for = ""
            self.on_step_end(trainer, pl_module, {})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that waited for its validation is complete."""
        if self._waits_for == "validation" and not trainer.sanity_checking:
            self._waits_for = ""
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.on_step_end(trainer, pl_module, metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that waited for its epoch's end is complete."""
        if self._waits_for == "epoch":
            self._waits_for = ""
            self._between_epochs = True
            try:
                self.on_step_end(trainer, pl_module, {})
            finally:
                self._between_epochs = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lets what is saved between two epochs begin with the next one."""
        if self._between_epochs:
            begin_next_epoch(checkpoint["loops"]["fit_loop"])


def begin_next_epoch(loop: dict[str, Any]) -> None:
    """Turns the state of Lightning's loop after an epoch's hooks into that of the next epoch's beginning.

    Resumed from the former, Lightning trains the next epoch as a part of the old one if `max_steps` is set: its batches
    go on counting and its epoch hooks are lost.

    Args:
        loop: The state of the fit loop, changed in place.
    """
    for progress in loop["epoch_progress"].values():
        progress.update(ready=progress["processed"] + 1, started=progress["processed"], completed=progress["processed"])
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for progress in (
        loop["epoch_loop.batch_progress"],
        loop["epoch_loop.scheduler_progress"],
        *optimizer.values(),
    ):
        progress["current"] = dict.fromkeys(progress["current"], 0)
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validation["total"] = dict.fromkeys(validation["total"], 0)


def validates_now(trainer: Trainer) -> bool:
    """Whether Lightning's loop validates after the present training batch."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return sum(trainer.num_val_batches) > 0 and loop._should_check_val_fx(fetcher)


def checkpoint_folder(trainer: Trainer) -> Path:
    """Where a run's checkpoints lie."""
    return Path(trainer.default_root_dir) / "checkpoints"


def save_step(
    trainer: Trainer, metrics: dict[str, float], monitor: str | None = None, mode: Literal["min", "max"] = "min"
) -> Path:
    """Saves the present step and its index line. All processes must call it.

    Args:
        trainer: Lightning's.
        metrics: Of the validation at this step.
        monitor: The metric that tells which one is best.
        mode: Whether the smallest or the largest is best.

    Returns:
        The file.

    Raises:
        OSError: It was not written, on all processes.
    """
    path = step_path(checkpoint_folder(trainer), trainer.global_step)
    problem = ""
    try:
        trainer.save_checkpoint(path, weights_only=False)
    except OSError as error:
        problem = _describe(error, path.parent)
        # The others wait at the barrier that ends Lightning's saving.
        trainer.strategy.barrier("Trainer.save_checkpoint")
    if trainer.is_global_zero and not problem:
        try:
            append_index(path.parent, entry_of(path, metrics, monitor, mode))
        except OSError as error:
            problem = _describe(error, path.parent)
    problem = trainer.strategy.broadcast(problem)
    if problem:
        raise OSError(problem)
    return path


def _describe(error: OSError, folder: Path) -> str:
    return f"{error.strerror or error}, {free_space(folder) / 1e9:.1f} GB free"


def free_space(folder: Path) -> int:
    """Bytes that can still be written below a folder, which need not be there."""
    there = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    return shutil.disk_usage(there).free
