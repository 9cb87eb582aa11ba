"""A table of the examples that a model gets most wrong."""

from itertools import islice
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.errors import UserError


class WorstErrors(Callback):
    """Sends the worst examples of each evaluation to each logger that takes tables; the task tells them, by `worst`.

    Args:
        count: Rows of the table.
    """

    def __init__(self, count: int = 50) -> None:
        if count < 1:
            raise UserError(f"WorstErrors takes {count} rows; at least 1 is needed")
        self.count = count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sends those of a validation, but for one that only checks that it works."""
        if not trainer.sanity_checking:
            self._send(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sends those of a test."""
        self._send(trainer, pl_module, "test")

    def _send(self, trainer: Trainer, task: Any, split: str) -> None:
        loggers: list[Any] = [logger for logger in trainer.loggers if hasattr(logger, "log_table")]
        if not loggers or not trainer.is_global_zero or not task.evaluation.records:
            return
        rows = list(islice(task.worst(), self.count))
        for logger in loggers if rows else ():
            data = [list(row.values()) for row in rows]
            logger.log_table(f"{split}/worst", columns=list(rows[0]), data=data, step=trainer.global_step)
