"""The moment at which an evaluation's metrics and records are there."""

from abc import ABC, abstractmethod
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer


class EvaluationEnd(Callback, ABC):
    """Calls `on_evaluation_end` on the first process after each validation and test whose task keeps records."""

    @abstractmethod
    def on_evaluation_end(self, trainer: Trainer, task: Any, split: Literal["val", "test"]) -> None:
        """What is to be shown of the evaluation; `task.evaluation.records` has a record of each example."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows a validation, but not one that only checks that it works."""
        if not trainer.sanity_checking:
            self._show(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows a test."""
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, task: Any, split: Literal["val", "test"]) -> None:
        if trainer.is_global_zero and task.evaluation.records:
            self.on_evaluation_end(trainer, task, split)
