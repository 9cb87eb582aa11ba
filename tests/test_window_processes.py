"""Two processes score rows, and windows of long texts, as one does, each example once."""

import json
from pathlib import Path
from typing import Any

import pytest
from programs import printed_by

from ptm_lightning.testing_texts import example

SCRIPT = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from ptm_lightning import tasks

folder, cache, processes = sys.argv[1:]
size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
trainer = Trainer(
    accelerator="cpu", devices=int(processes), strategy="ddp" if processes == "2" else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
found = {}
for source in sorted(Path(folder).glob("*.jsonl")):
    name = source.stem.partition(",")[0]
    settings = {"vocab_size": 300, "max_length": 32, "batch_size": 3, "validation_share": 0.4}
    if name != "SequenceClassification":
        settings["stride"] = 9
    module = getattr(tasks, f"{name}Data")(train=[str(source)], cache_dir=cache, **settings)
    found[source.stem] = trainer.validate(getattr(tasks, name)(overrides=size), module, verbose=False)[0]
if trainer.is_global_zero:
    print(json.dumps(found))
"""
CHANGED: dict[str, Any] = {
    "QuestionAnswering": lambda number: {},
    "QuestionAnswering, none": lambda number: {"answers": {"text": [], "answer_start": []}},
    "TokenClassification": lambda number: {},
    "SequenceClassification": lambda number: {},
    "SequenceClassification, several": lambda number: {"label": [*"abc"][number % 3 : 1 + number % 5]},
    "SequenceClassification, numbers": lambda number: {"label": number % 7 / 3},
}
"""What the rows of each task have in place of the usual columns."""
METRICS = {
    "QuestionAnswering": ("f1", "has_answer_f1", "no_answer_accuracy"),
    "QuestionAnswering, none": ("f1", "no_answer_accuracy"),
    "TokenClassification": ("f1", "accuracy"),
    "SequenceClassification": ("f1_macro", "mcc", "auroc", "calibration_error"),
    "SequenceClassification, several": ("f1_macro", "accuracy", "mcc", "auroc", "calibration_error"),
    "SequenceClassification, numbers": ("mae", "pearson", "spearman"),
}
"""Some of those that are expected."""


def scores(processes: int, cache: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Of each task, by one run of a program for all of them: starting it takes longest."""
    for task, changed in CHANGED.items():
        rows = [example(number) | changed(number) for number in range(60)]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found: dict[str, dict[str, float]] = printed_by(SCRIPT, folder, str(folder), str(cache), str(processes))
    return found


def test_scores_do_not_depend_on_the_number_of_processes(cache: Path, tmp_path: Path) -> None:
    one, two = (scores(processes, cache, tmp_path) for processes in (1, 2))
    assert one.keys() == two.keys() == CHANGED.keys()
    for task, metrics in METRICS.items():
        assert two[task] == pytest.approx(one[task], rel=1e-4), task
        assert {f"val/{name}" for name in metrics} <= one[task].keys(), task
    assert "val/has_answer_f1" not in one["QuestionAnswering, none"]
