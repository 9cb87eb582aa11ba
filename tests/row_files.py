"""Rows in a file, and a trainer that validates at its end."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    """Validates at the end."""
    if settings.get("max_steps"):
        settings = {"val_check_interval": settings["max_steps"], "check_val_every_n_epoch": None} | settings
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder, **{"max_steps": 0, **settings},
    )  # fmt: skip
