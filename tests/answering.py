"""What the tests of tasks that answer with text share: files of rows, and a trainer that only trains."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from ptm_lightning.testing_texts import document


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def summaries_file(folder: Path, count: int = 60) -> Path:
    rows = [{"document": document(i), "summary": document(i).partition(" .")[0]} for i in range(count)]
    return write(folder / "rows.jsonl", rows)


def trainer_for(folder: Path, steps: int, *callbacks: Any, **settings: Any) -> Trainer:
    return Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder, **settings,
    )  # fmt: skip
