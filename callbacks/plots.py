"""Figures of each evaluation, as PNG files in the run folder and as images for the loggers that take them."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer

from ptm_lightning.plots import draw

from .evaluation_end import EvaluationEnd


class Plots(EvaluationEnd):
    """Draws what the task shows of an evaluation, by its method `figures`: `plots/val/NAME.png`, the last one's.

    Args:
        folder: The run folder; without one, as in a test without a run, nothing is drawn.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder) / "plots" if folder else None

    def on_evaluation_end(self, trainer: Trainer, task: Any, split: Literal["val", "test"]) -> None:
        """Draws them."""
        if self.folder is None:
            return
        for name, figure in task.figures().items():
            path = self.folder / split / f"{name}.png"
            draw(figure, path)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(f"{split}/{name}", path, step=trainer.global_step)
