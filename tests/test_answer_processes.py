"""Two processes measure the answers of tasks that generate text as one does, each example once and in its order."""

import json
from pathlib import Path
from typing import Any

import pytest
from programs import printed_by

from ptm_lightning.testing_texts import example

SCRIPT = """
import json, sys
from lightning.pytorch import Trainer
from ptm_lightning import tasks
from ptm_lightning.testing_case import tiny

source, cache, processes, cases = sys.argv[1:]
trainer = Trainer(
    accelerator="cpu", devices=int(processes), strategy="ddp" if processes == "2" else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
found = {}


def measured(task):
    seen, measure = [], task.measure
    task.measure = lambda *texts: seen.append(texts) or measure(*texts)
    return seen


for name, (architecture, new_tokens, lengths) in json.loads(cases).items():
    task = getattr(tasks, name)(overrides=tiny(architecture), max_new_tokens=new_tokens)
    shared = {"batch_size": 3, "vocab_size": 300, "cache_dir": cache, "test_share": 0.3}
    data = getattr(tasks, f"{name}Data")(train=[source], **shared, **lengths)
    seen = measured(task)
    metrics = trainer.test(task, data, verbose=False)[0]
    found[name] = {"seen": seen, "metrics": metrics}
if trainer.is_global_zero:
    print(json.dumps(found))
"""
CASES = {
    "Summarization": ("bart", 8, {"max_length": 128, "max_target_length": 40}),
    "Translation": ("bart", 8, {"max_length": 128, "max_target_length": 112}),
    "Dialogue": ("gpt2", 6, {"max_length": 80, "max_target_length": 20}),
}
"""The architecture, the longest answer and the longest texts of each task."""
METRICS = {
    "Summarization": ("rouge1", "rougeL"),
    "Translation": ("bleu", "chrf", "ter", "bleu_copy"),
    "Dialogue": ("perplexity", "bleu", "f1", "distinct1"),
}


def scores(processes: int, cache: Path, folder: Path) -> dict[str, Any]:
    """Of each task, by one run of a program for all of them: starting it takes longest."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(example(number)) + "\n" for number in range(60)))
    arguments = [str(folder / "rows.jsonl"), str(cache), str(processes), json.dumps(CASES)]
    found: dict[str, Any] = printed_by(SCRIPT, folder, *arguments)
    return found


def test_answers_do_not_depend_on_the_number_of_processes(cache: Path, tmp_path: Path) -> None:
    one, two = (scores(processes, cache, tmp_path) for processes in (1, 2))
    for task, metrics in METRICS.items():
        assert one[task]["seen"] == two[task]["seen"], task
        assert two[task]["metrics"] == pytest.approx(one[task]["metrics"], rel=1e-5), task
        assert {f"test/{name}" for name in metrics} <= one[task]["metrics"].keys(), task
        answers = one[task]["seen"][0][0]
        assert len(answers) == 18 or (task == "Dialogue" and len(answers) > 18)  # replies, of 18 conversations
