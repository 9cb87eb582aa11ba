"""Ends training when validation no longer gets better."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.errors import UserError, suggest
from ptm_lightning.log import say

from .monitor import Mode, check_mode, task_metric


class EarlyStop(Callback):
    """Ends training when `patience` validations in a row were no better than the best before them.

    The schedule of the learning rate stays that of the whole run. Checkpoints carry the count, so that a run that is
    resumed stops where it would have; with a larger `patience`, `--resume` goes on.

    Args:
        patience: Validations without a better one; `RegularValidation` makes about 10 in a run.
        monitor: The validation metric that tells which one is better: "task" is the task's own, as for checkpoints.
        mode: Whether its smallest or its largest value is best, where `monitor` names it.
    """

    def __init__(self, patience: int = 3, monitor: str = "task", mode: Mode = "min") -> None:
        if patience < 1:
            raise UserError(f"patience of EarlyStop is {patience}, but must be at least 1")
        check_mode(mode, "EarlyStop")
        self.patience = patience
        self.monitor = monitor
        self.mode: Mode = mode
        self.best: float | None = None
        """The best value so far."""
        self.best_step = 0
        self.waited = 0
        """Validations since then."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks the task for its metric."""
        if self.monitor == "task":
            self.monitor, self.mode = task_metric(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that has stopped is not trained on when it is resumed."""
        self._stop_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts; what checkpoints do comes later."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            near = suggest(self.monitor, metrics)
            raise UserError(f"monitor of EarlyStop: the validation logs no '{self.monitor}'; {near}")
        value = float(metrics[self.monitor])
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best, self.best_step, self.waited = value, trainer.global_step, 0
        else:
            self.waited += 1
        self._stop_if_due(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What was best, and how many validations ago."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.best, self.best_step, self.waited = (state_dict[name] for name in ("best", "best_step", "waited"))

    def _stop_if_due(self, trainer: Trainer) -> None:
        due = self.waited >= self.patience
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.should_stop = True
            say(
                f"training ends at step {trainer.global_step}: {self.monitor} was best at step {self.best_step}, "
                f"{self.waited} validations ago"
            )
