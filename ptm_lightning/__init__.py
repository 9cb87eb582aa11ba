"""Pretrain and fine-tune language models with PyTorch Lightning."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptm_lightning.data.module import TextData
    from ptm_lightning.data.task_data import TaskData
    from ptm_lightning.errors import UserError
    from ptm_lightning.models.kernels import prepare_cpu
    from ptm_lightning.task import Task
    from ptm_lightning.terms import Auroc, Ratio, Term

__version__ = version("ptm-lightning")

_PUBLIC = {
    "Task": "ptm_lightning.task",
    "TaskData": "ptm_lightning.data.task_data",
    "TextData": "ptm_lightning.data.module",
    "Term": "ptm_lightning.terms",
    "Ratio": "ptm_lightning.terms",
    "Auroc": "ptm_lightning.terms",
    "UserError": "ptm_lightning.errors",
    "prepare_cpu": "ptm_lightning.models.kernels",
}

__all__ = ["Auroc", "Ratio", "Task", "TaskData", "Term", "TextData", "UserError", "prepare_cpu"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that importing the package costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
