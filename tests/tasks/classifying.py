"""A tiny classifier that is fitted, by the kind of its labels."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from ptm_lightning.tasks import SequenceClassification, SequenceClassificationData
from row_files import write

from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

LABELS = {"single": "bear", "several": ["a", "b"], "numbers": 0.5}


def label(kind: str, number: int) -> Any:
    if kind == "several":
        return [name for i, name in enumerate("abc") if number >> i & 1]
    return example(number)["label"] if kind == "single" else number % 7 / 3


def fitted(
    tmp_path: Path,
    kind: str = "single",
    task: dict[str, Any] | None = None,
    *,
    steps: int = 1,
    callbacks: Any = (),
    **data: Any,
) -> tuple[SequenceClassification, SequenceClassificationData]:
    source = write(tmp_path / f"{kind}.jsonl", [example(i) | {"label": label(kind, i)} for i in range(80)])
    architecture = (task or {}).get("architecture", "bert")
    module = SequenceClassificationData(**({"train": [source], "vocab_size": 300, "max_length": 40} | data))
    model = SequenceClassification(**({"overrides": tiny(architecture)} | (task or {})))
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model.eval(), module
