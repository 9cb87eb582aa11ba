"""A table of the examples that a model gets most wrong."""

from itertools import islice
from typing import Any, Literal

from lightning.pytorch import Trainer

from ptm_lightning.errors import UserError

from .evaluation_end import EvaluationEnd


class WorstErrors(EvaluationEnd):
    """Sends the worst examples of each evaluation to each logger that takes tables; the task tells them, by `worst`.

    Args:
        count: Rows of the table.
    """

    def __init__(self, count: int = 50) -> None:
        if count < 1:
            raise UserError(f"WorstErrors takes {count} rows; at least 1 is needed")
        self.count = count

    def on_evaluation_end(self, trainer: Trainer, task: Any, split: Literal["val", "test"]) -> None:
        """Sends them."""
        loggers: list[Any] = [logger for logger in trainer.loggers if hasattr(logger, "log_table")]
        rows = list(islice(task.worst(), self.count)) if loggers else []
        for logger in loggers if rows else ():
            data = [list(row.values()) for row in rows]
            logger.log_table(f"{split}/worst", columns=list(rows[0]), data=data, step=trainer.global_step)
