"""predict for every task on rows: from files, standard input and --text; by a run and by the folder that it exports."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from ptm_lightning.tasks import QuestionAnswering
from task_rows import ROWS, TEXTS

from ptm_lightning.__main__ import main
from ptm_lightning.plugins import find_class
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny
from ptm_lightning.text_generation import TextGeneration


def predicted(output: Path, *command: str) -> list[dict[str, Any]]:
    assert main(["predict", *command, f"--output={output}", "--trainer.accelerator=cpu"]) == 0
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_float=lambda number: round(float(number), 4)) for line in lines]


@pytest.mark.parametrize("name", ROWS)
def test_rows_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One window, in batches of four rows of like length."""
    monkeypatch.chdir(tmp_path)
    task, rows = find_class(name.partition(",")[0], Task, "--model"), ROWS[name]
    lines = [json.dumps({"id": f"row {n}"} | row) + "\n" for n, row in enumerate(rows)]
    Path("rows.jsonl").write_text("".join(lines))
    small = [f"--model.overrides={json.dumps(tiny(task.architecture))}", "--data.vocab_size=300"]
    sizes = [f"--data.max_length={120 if name == 'Dialogue' else 24}", "--data.batch_size=4"]
    if issubclass(task, TextGeneration):
        sizes += ["--data.max_target_length=24"]
    short = ["--trainer.max_steps=1", "--trainer.num_sanity_val_steps=0", "--trainer.accelerator=cpu"]
    source = ["--data.train=rows.jsonl", "--model", task.__name__]
    assert main(["fit", *source, *small, *sizes, *short, "--run_dir=run"]) == 0

    by_file = predicted(Path("a.jsonl"), "--run_dir=run", "--data.predict=rows.jsonl")
    assert [row["id"] for row in by_file] == [f"row {n}" for n in range(30)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("".join(lines).encode())))
    assert predicted(Path("b.jsonl"), "--run_dir=run", "--data.predict=-") == by_file
    empty = {name: [] if isinstance(value, list) else "" for name, value in rows[0].items()}
    gaps = [lines[0], json.dumps({"id": "none"} | empty) + "\n", *lines[1:]]
    Path("gaps.jsonl").write_text("".join(gaps))
    with_gaps = predicted(Path("gaps.out"), "--run_dir=run", "--data.predict=gaps.jsonl")
    assert with_gaps == [by_file[0], {"id": "none", "text": "", "prediction": None}, *by_file[1:]]
    exported = ["--model", task.__name__, "--model.backbone=run/model", *sizes]
    assert predicted(Path("c.jsonl"), *exported, "--data.predict=rows.jsonl") == by_file

    if task is QuestionAnswering:
        assert main(["predict", "--run_dir=run", "--text", "Where?"]) == 2
        return
    (by_text,) = predicted(Path("d.jsonl"), "--run_dir=run", "--text", TEXTS[4])
    assert by_text["prediction"] == by_file[4]["prediction"]


@pytest.mark.parametrize("name", ROWS)
def test_columns_that_only_training_reads_may_be_missing(name: str, tmp_path: Path):
    """Where the run has mapped all, and the rows to predict for have but those that are asked for."""
    task, rows = find_class(name.partition(",")[0], Task, "--model"), ROWS[name]
    columns = {column: f"my_{column}" for column in rows[0]}
    asked = list(rows[0])[: 2 if task is QuestionAnswering else 1]
    lines = [json.dumps({columns[column]: row[column] for column in asked}) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    data = task.data_class(predict=[str(tmp_path / "rows.jsonl")], columns=columns)
    assert len(list(data.predict_inputs())) == len(rows)
