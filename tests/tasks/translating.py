"""A tiny translation task that has met its data, and a batch's labels as transformers has them."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import Translation, TranslationData

from ptm_lightning.testing_case import tiny

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


def prepared(source: Path, task: dict[str, Any] | None = None, steps: int = 0, **data: Any) -> tuple[Any, Any]:
    options: dict[str, Any] = {"architecture": "bart", "max_new_tokens": 12} | (task or {})
    if "backbone" not in options:
        options["overrides"] = tiny(options["architecture"]) | options.get("overrides", {})
    arguments: dict[str, Any] = {"max_length": 128, "max_target_length": 112, "batch_size": 8, "vocab_size": 300}
    model, module = Translation(**options), TranslationData(train=[str(source)], **(arguments | data))
    Trainer(max_steps=steps, default_root_dir=source.parent, **QUIET).fit(model, module)
    return model, module


def their_labels(batch: Any) -> torch.Tensor:
    labels = torch.full_like(batch["decoder_input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    return labels.view_as(batch["decoder_input_ids"])
