"""The result of a finished run: its best checkpoint as a folder that transformers loads."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.card_scores import show_scores
from ptm_lightning.checkpoint import best, step_files
from ptm_lightning.environment import environment
from ptm_lightning.export import export
from ptm_lightning.log import say
from ptm_lightning.model_card import TRAINER
from ptm_lightning.task import Task

from .step_end import checkpoint_folder


class ExportBest(Callback):
    """Exports the best checkpoint to `<trainer.default_root_dir>/model` when training is finished.

    The best one is the index's, by the metric that `Checkpoints` watches; without a metric it is the newest one. A run
    that was interrupted or failed exports nothing: `--resume` goes on with it, and `export` works on any checkpoint.

    Args:
        every_checkpoint: Export each checkpoint that was kept, too, to `exports/step=00001200`.
    """

    def __init__(self, every_checkpoint: bool = False) -> None:
        self.every_checkpoint = every_checkpoint
        self.exported: Path | None = None
        """The best one's folder, on the first process."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports. Lightning doesn't come here after an exception, and `Interrupted` is one."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, Task)
        checkpoints, root = checkpoint_folder(trainer), Path(trainer.default_root_dir)
        kept = step_files(checkpoints)
        if not kept:
            say(f"nothing to export: no checkpoint in {checkpoints}; add the callback Checkpoints")
            return
        settings = None if (root / "config.yaml").exists() else _settings(trainer)
        chosen = best(checkpoints) or kept[max(kept)]
        self.exported = export(chosen, root / "model", type(pl_module), settings=settings)
        show_scores(root, self.exported)
        for path in kept.values() if self.every_checkpoint else ():
            export(path, root / "exports" / path.stem, type(pl_module), settings=settings)


def _settings(trainer: Trainer) -> dict[str, Any]:
    """The arguments of a run that no command line has written down."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    known = fields(data) if is_dataclass(data) else ()
    unlimited = {"max_epochs": -1, "limit_train_batches": 1.0}  # what Lightning makes of None
    trainer_arguments = {name: getattr(trainer, name) for name in TRAINER}
    return {
        "data": {each.name: getattr(data, each.name) for each in known},
        "trainer": {name: value for name, value in trainer_arguments.items() if value != unlimited.get(name)},
        "environment": environment(str(trainer.precision), trainer.world_size),
    }
