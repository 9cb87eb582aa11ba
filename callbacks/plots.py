"""Figures of each evaluation, as PNG files in the run folder and as images for the loggers that take them."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.plots import draw


class Plots(Callback):
    """Draws what the task shows of an evaluation, by its method `figures`: `plots/val/NAME.png`, the last one's.

    Args:
        folder: The run folder; without one, as in a test without a run, nothing is drawn.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder) / "plots" if folder else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws those of a validation, but for one that only checks that it works."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws those of a test."""
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: Trainer, task: Any, split: str) -> None:
        if self.folder is None or not trainer.is_global_zero or not task.evaluation.records:
            return
        for name, figure in task.figures().items():
            path = self.folder / split / f"{name}.png"
            draw(figure, path)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(f"{split}/{name}", path, step=trainer.global_step)
