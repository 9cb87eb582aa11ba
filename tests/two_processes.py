"""A test run of a task that answers with text, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
from lightning.pytorch import Trainer
from ptm_lightning.tasks import {task}, {task}Data
from ptm_lightning.testing_case import tiny

source, cache, processes = sys.argv[1:]
task = {task}(overrides=tiny("{architecture}"), max_new_tokens={new_tokens})
data = {task}Data(
    train=[source], max_length={max_length}, max_target_length={max_target_length}, batch_size=3, vocab_size=300,
    cache_dir=cache, test_share=0.3,
)
trainer = Trainer(
    accelerator="cpu", devices=int(processes), strategy="ddp" if processes == "2" else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
seen, measure = [], task.measure
task.measure = lambda *texts: seen.append(texts) or measure(*texts)
metrics = trainer.test(task, data, verbose=False)[0]
if trainer.is_global_zero:
    print(json.dumps({{"seen": seen, **metrics}}))
"""


def answers_that_both_measure(tmp_path: Path, source: Path, cache: Path, **settings: Any) -> list[str]:
    """The answers that are measured; on two processes these are the same, and so are the metrics."""
    (tmp_path / "run.py").write_text(SCRIPT.format(**settings))
    found = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), str(source), str(cache), processes],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    one, two = found
    assert one["seen"] == two["seen"]
    answers: list[str] = one["seen"][0][0]
    del one["seen"], two["seen"]
    assert one == pytest.approx(two, rel=1e-5)
    return answers
