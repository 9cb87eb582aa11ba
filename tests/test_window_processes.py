"""Two processes score rows, and windows of long texts, as one does, each example once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptm_lightning.testing_texts import example

SCRIPT = """
import json, sys
from lightning.pytorch import Trainer
from ptm_lightning import tasks

rows, cache, name, processes = sys.argv[1:]
size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
task, data = getattr(tasks, name), getattr(tasks, f"{name}Data")
trainer = Trainer(
    accelerator="cpu", devices=int(processes), strategy="ddp" if processes == "2" else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
settings = {"vocab_size": 300, "max_length": 32, "batch_size": 3, "validation_share": 0.4}
if name != "SequenceClassification":
    settings["stride"] = 9
module = data(train=[rows], cache_dir=cache, **settings)
metrics = trainer.validate(task(overrides=size), module, verbose=False)[0]
if trainer.is_global_zero:
    print(json.dumps(metrics))
"""


def metrics_of_both(task: str, rows: list[dict[str, Any]], cache: Path, tmp_path: Path) -> list[dict[str, float]]:
    script, source = tmp_path / "run.py", tmp_path / "rows.jsonl"
    script.write_text(SCRIPT)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), str(source), str(cache), task, processes],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    return found


@pytest.mark.parametrize(
    ("task", "metric"),
    [("QuestionAnswering", "f1"), ("TokenClassification", "f1"), ("SequenceClassification", "f1_macro")],
)
def test_scores_do_not_depend_on_the_number_of_processes(task: str, metric: str, cache: Path, tmp_path: Path) -> None:
    one, two = metrics_of_both(task, [example(number) for number in range(60)], cache, tmp_path)
    assert two == pytest.approx(one, rel=1e-4)
    assert f"val/{metric}" in one


def test_all_questions_may_be_without_an_answer(cache: Path, tmp_path: Path) -> None:
    none = {"answers": {"text": [], "answer_start": []}}
    rows = [example(number) | none for number in range(60)]
    one, two = metrics_of_both("QuestionAnswering", rows, cache, tmp_path)
    assert two == pytest.approx(one, rel=1e-4)
    assert "val/no_answer_accuracy" in one
    assert "val/has_answer_f1" not in one
