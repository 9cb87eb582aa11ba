"""A real masked-language-model run that takes a second."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLM, MaskedLMData

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def make(corpus: Path, **changes: Any) -> tuple[MaskedLM, MaskedLMData]:
    """Epochs of 27 micro-batches. `changes` are the data's; those of `task` the task's."""
    task = {"overrides": TINY} | changes.pop("task", {})
    data = {"vocab_size": 600, "max_length": 32, "batch_tokens": 512, "validation_share": 0.1}
    return MaskedLM(**task), MaskedLMData(train=[str(corpus)], **(data | changes))


def trainer_of(folder: Path, *callbacks: Any, **changes: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "max_steps": 12,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 2,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return Trainer(**(arguments | changes))
