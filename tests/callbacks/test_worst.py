"""What each task shows of an evaluation: figures as PNG files and images, and a table of its worst examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from ptm_lightning.callbacks import Plots, WorstErrors
from task_rows import ROWS

from ptm_lightning import tasks
from ptm_lightning.errors import UserError
from ptm_lightning.testing_case import tiny

SHOWN = {
    "SequenceClassification": (["calibration", "confusion_matrix"], "text label predicted probability error"),
    "SequenceClassification, several": (["calibration", "confusion_matrix"], "text label predicted error"),
    "SequenceClassification, numbers": ([], "text label predicted error"),
    "TokenClassification": (["confusion_matrix"], "tokens tags guessed wrong"),
    "QuestionAnswering": (["threshold"], "question context answers found doubt f1"),
    "Summarization": ([], "source reference answer score"),
    "Dialogue": ([], "source reference answer score"),
    "Translation": ([], "source reference answer score"),
}


def _parts(value: Any) -> list[Any]:
    """A value, or what is said in a conversation."""
    return [part["content"] for part in value] if isinstance(value, list) and isinstance(value[0], dict) else [value]


class Shown(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, tuple[list[str], list[list[Any]], int]] = {}
        self.images: dict[str, Path] = {}

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        assert key not in self.tables, "only one validation is no mere check"
        self.tables[key] = columns, data, step

    def log_image(self, key: str, path: Path, step: int) -> None:
        self.images[key] = path


@pytest.fixture(params=ROWS)
def evaluated(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Shown, Path]:
    """A task that was fitted and tested."""
    task_class = getattr(tasks, request.param.partition(",")[0])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[request.param]))
    task: Any = task_class(overrides=tiny(task_class.architecture))
    shares = {"validation_share": 0.4, "test_share": 0.2}
    data = task_class.data_class(train=[str(tmp_path / "rows.jsonl")], vocab_size=300, batch_size=4, **shares)
    shown = Shown()
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=shown, callbacks=[Plots(str(tmp_path / "run")), WorstErrors(count=4)],
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=-1,
        val_check_interval=2, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    return request.param, task, shown, tmp_path / "run"


def test_figures_and_the_worst_examples_are_shown(evaluated: tuple[str, Any, Shown, Path]) -> None:
    name, task, shown, folder = evaluated
    figures, columns = SHOWN[name]
    paths = {
        f"{split}/{figure}": folder / "plots" / split / f"{figure}.png"
        for split in ("val", "test")
        for figure in figures
    }
    assert shown.images == paths
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths.values())
    assert sorted(folder.rglob("*.png")) == sorted(paths.values())
    originals = [{str(part) for value in row.values() for part in _parts(value)} for row in ROWS[name]]
    for split in ("val", "test"):
        names, rows, step = shown.tables[f"{split}/worst"]
        assert (names, step) == (columns.split(), 2)
        assert 1 <= len(rows) <= 4
        texts = [row[0].split() if name == "TokenClassification" else row[0] for row in rows]
        assert all(any(str(text) in original for original in originals) for text in texts)
        worse = {"score": 1, "f1": 1}.get(names[-1], -1)
        assert [row[-1] for row in rows] == sorted((row[-1] for row in rows), key=lambda value: worse * value)
    figure = task.figures().get("confusion_matrix")
    metrics = task.trainer.callback_metrics
    if name == "SequenceClassification, several":
        there, others = (np.array(figure.counts[first::2]).sum(axis=0) for first in (0, 1))
        f1 = 2 * there[0] / (2 * there[0] + there[1] + others[0])
        assert f1 == pytest.approx(metrics["test/f1_micro"].item()) != 0
        assert task.figures()["calibration"].title == f"calibration error {metrics['test/calibration_error']:.4f}"
    elif figure is not None:
        right = sum(row[number] for number, row in enumerate(figure.counts))
        accuracy = right / sum(map(sum, figure.counts))
        assert accuracy == pytest.approx(metrics["test/accuracy"].item())


def test_the_worst_are_all_that_is_wrong_and_the_surest_first(evaluated: tuple[str, Any, Shown, Path]) -> None:
    name, task, *_ = evaluated
    if name != "SequenceClassification":
        pytest.skip("one task is enough")
    records, labels = task.evaluation.records, task.link.labels
    wanted = []
    for record in records:
        chances, right = record["logits"].softmax(0).tolist(), int(record["label"])
        if max(chances) != chances[right]:
            row = task.evaluated(record["example"])
            predicted = labels[chances.index(max(chances))]
            wanted.append((1 - chances[right], row["text"], row["label"], predicted, max(chances)))
    found = [(r["error"], r["text"], r["label"], r["predicted"], r["probability"]) for r in task.worst()]
    assert [each[1:4] for each in found] == [each[1:4] for each in sorted(wanted, reverse=True)]
    for mine, theirs in zip(found, sorted(wanted, reverse=True), strict=True):
        assert (mine[0], mine[4]) == pytest.approx((theirs[0], theirs[4]))


def test_a_row_at_least() -> None:
    with pytest.raises(UserError, match="WorstErrors takes 0 rows"):
        WorstErrors(count=0)


def test_without_a_folder_nothing_is_drawn() -> None:
    assert Plots("").folder is None
