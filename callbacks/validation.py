"""Validation at regular steps, the last one included, whatever an epoch's length is."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.errors import UserError


class RegularValidation(Callback):
    """Validates about `times` times in a run, at equal distances in optimizer steps, and at the last step.

    A `val_check_interval` or `check_val_every_n_epoch` that the user chose is kept (what Lightning has by default can't
    be told from the same thing chosen), but the last step is validated all the same: else the best checkpoint could
    never be the last. The module's `total_steps` says how long the run is; if it changes, as with a budget in hours,
    the distance follows.

    Args:
        times: How often. Steps that don't divide make it one fewer, or the last distance a shorter one.
    """

    def __init__(self, times: int = 10) -> None:
        if times < 1:
            raise UserError(f"times of RegularValidation is {times}, but must be at least 1")
        self.times = times
        self.active = False
        """Whether the choice is ours in this run."""
        self._total = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over if nothing was chosen; Lightning reads the interval when it makes the loader, a little later."""
        chosen = getattr(trainer, "val_check_interval", None)  # it has none with an interval in time
        default = isinstance(chosen, float) and chosen == 1.0 and trainer.check_val_every_n_epoch == 1
        self.active = self.active or default
        if self.active:
            self._space(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses an interval that no epoch is long enough for.

        Raises:
            UserError: It is counted within epochs, and longer than one.
        """
        chosen = getattr(trainer, "val_check_interval", None)
        plan = getattr(trainer.datamodule, "plan", None)  # type: ignore[attr-defined]
        if plan is None or not isinstance(chosen, int) or trainer.check_val_every_n_epoch is None:
            return
        if chosen > (batches := plan.steps(0) * trainer.accumulate_grad_batches):
            raise UserError(
                f"--trainer.val_check_interval {chosen}: it is counted within an epoch, which has {batches:,} batches; "
                "add --trainer.check_val_every_n_epoch null to count over epochs"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Makes a validation due after the last step, and follows a changed total."""
        if self.active and self._total != pl_module.total_steps:
            self._space(trainer, pl_module)
            trainer.val_check_batch = trainer.val_check_interval
        if trainer.global_step == pl_module.total_steps and hasattr(trainer, "val_check_interval"):
            trainer.check_val_every_n_epoch = None
            trainer.val_check_batch = trainer.fit_loop.total_batch_idx + 1

    def _space(self, trainer: Trainer, module: LightningModule) -> None:
        self._total = int(module.total_steps)  # type: ignore[arg-type]
        # Counted in micro-batches over all epochs, which Lightning does only with None here.
        trainer.val_check_interval = max(1, -(-self._total // self.times)) * trainer.accumulate_grad_batches
        trainer.check_val_every_n_epoch = None
