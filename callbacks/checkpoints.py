"""Saves a run's steps: now and then, after each validation, at each epoch's end; keeps the best and the last."""

import os
import warnings

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from ptm_lightning.checkpoint import best, ranking, read_index, step_files, write_index
from ptm_lightning.errors import UserError, suggest

from .monitor import Mode, check_mode, task_metric
from .step_end import StepEnd, checkpoint_folder, free_space, save_step

ATTEMPTS = 3
"""A run that can't save so many times in a row stops."""
BYTES_PER_PARAMETER = 12
"""In a checkpoint: the weight and AdamW's two averages, fp32."""


class Checkpoints(StepEnd):
    """Saves `<trainer.default_root_dir>/checkpoints/step=00001200.ckpt` and keeps the best and the last ones.

    A step is saved every `every_n_steps`, after each validation, at each epoch's end and at the end of training. A
    checkpoint that can't be written costs a warning, and training goes on; after three in a row it stops.

    Args:
        every_n_steps: Optimizer steps between two checkpoints. Without it, about 20 in the whole run, if its length is
            known from the task's `total_steps` or from `trainer.max_steps`.
        keep_best: How many of the best are kept, judged by `monitor` at the validation of the very same step.
        keep_last: How many of the newest are kept; at least 1. With 2, one damaged file costs little.
        monitor: The validation metric that tells which one is best: "task" is the task's own; None if nothing does.
        mode: Whether its smallest or its largest value is best, where `monitor` names it.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        keep_best: int = 1,
        keep_last: int = 2,
        monitor: str | None = "task",
        mode: Mode = "min",
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"every_n_steps of Checkpoints is {every_n_steps}, but must be at least 1")
        if keep_last < 1 or keep_best < 0:
            raise UserError(
                f"Checkpoints keeps {keep_last} last and {keep_best} best ones; at least 1 and 0 are needed"
            )
        check_mode(mode, "Checkpoints")
        self.every_n_steps = every_n_steps
        self.keep_best = keep_best
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode: Mode = mode
        self.best_model_path = ""
        self._every: int | None = None
        self._failures = 0
        self._attempted = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to train where the checkpoints have no room, one more than those kept while it is written."""
        if self.monitor == "task":
            self.monitor, self.mode = task_metric(pl_module)
        if not trainer.is_global_zero:
            return
        folder, averaged = checkpoint_folder(trainer), getattr(pl_module, "ema", None) is not None
        sizes = [(p.numel(), BYTES_PER_PARAMETER if p.requires_grad else 4) for p in pl_module.parameters()]
        size = sum(numbers * (each + 4 * averaged) for numbers, each in sizes)
        there = sum(path.stat().st_size for path in step_files(folder).values())
        needed = max(size, (self.keep_best + self.keep_last + 1) * size - there)
        if (free := free_space(folder)) < needed:
            raise UserError(
                f"--run_dir {trainer.default_root_dir}: {free / 1e9:.2g} GB free, but checkpoints of "
                f"{size / 1e9:.2g} GB each need {needed / 1e9:.2g} GB; make room or choose another folder"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fixes the distance between checkpoints, and puts away what belongs to a future that this run doesn't have."""
        super().on_train_start(trainer, pl_module)
        total = getattr(pl_module, "total_steps", None) or max(0, trainer.max_steps)
        self._every = self.every_n_steps or (max(1, int(total) // 20) if total else None)
        self._failures = 0
        if trainer.is_global_zero:
            self._set_aside_newer(trainer)
        self._note_best(trainer)

    def on_step_end(self, trainer: Trainer, module: LightningModule, metrics: dict[str, float]) -> None:
        """Saves if it is time to."""
        step = trainer.global_step
        due = self._every is not None and step % self._every == 0
        if due or metrics or self._between_epochs or step == trainer.max_steps or trainer.should_stop:
            self._save(trainer, metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what a hook after ours has stopped: Lightning calls this in mid-epoch too when training ends there."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.should_stop and self._attempted != trainer.global_step:
            self._save(trainer, {})

    def _save(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self._attempted = trainer.global_step
        if self.monitor and metrics and self.monitor not in metrics:
            rank_zero_warn(
                f"no checkpoint is the best: the validation logs no '{self.monitor}', {suggest(self.monitor, metrics)}"
            )
        try:
            save_step(trainer, metrics, self.monitor, self.mode)
        except OSError as error:
            self._failures += 1
            problem = f"checkpoint at step {trainer.global_step} not written ({error})"
            if self._failures >= ATTEMPTS:
                raise UserError(f"{problem}, {ATTEMPTS} times in a row; make room, then go on with --resume") from error
            rank_zero_warn(f"{problem}; training goes on", category=RuntimeWarning)
        else:
            self._failures = 0
            self._prune(trainer)
            self._note_best(trainer)

    @rank_zero_only
    def _prune(self, trainer: Trainer) -> None:
        folder = checkpoint_folder(trainer)
        entries = read_index(folder)
        kept = {entry.step for entry in [*entries[-self.keep_last :], *ranking(entries)[: self.keep_best]]}
        try:
            for step, path in step_files(folder).items():
                if step not in kept:
                    path.unlink()
            write_index(folder, [entry for entry in entries if entry.step in kept])
        except OSError as error:
            rank_zero_warn(f"old checkpoints not removed ({error}); training goes on", category=RuntimeWarning)

    def _set_aside_newer(self, trainer: Trainer) -> None:
        """Files newer than the step this run starts from are damaged ones, or another run's."""
        folder = checkpoint_folder(trainer)
        newer = [path for step, path in step_files(folder).items() if step > trainer.global_step]
        for path in newer:
            os.replace(path, path.with_name(f"{path.name}.old"))
        if newer:
            warnings.warn(
                f"{folder}: this run starts from step {trainer.global_step}; newer checkpoints are set aside as "
                + ", ".join(f"{path.name}.old" for path in newer),
                stacklevel=2,
            )
        entries = read_index(folder)
        if newer and entries:
            write_index(folder, entries)

    def _note_best(self, trainer: Trainer) -> None:
        self.best_model_path = str(best(checkpoint_folder(trainer)) or "")
