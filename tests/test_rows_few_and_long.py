"""Every downstream task by the command line on odd files: ten rows, ten thousand words, one label, no answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from row_files import write
from task_rows import ROWS

from ptm_lightning.__main__ import main
from ptm_lightning.testing_case import tiny

KINDS = {
    "classification": "SequenceClassification",
    "classification, several": "SequenceClassification, several",
    "classification, numbers": "SequenceClassification, numbers",
    "token_classification": "TokenClassification",
    "question_answering": "QuestionAnswering",
    "summarization": "Summarization",
    "summarization_causal": "Summarization",
    "translation": "Translation",
    "dialogue": "Dialogue",
    "dialogue, encoder-decoder": "Dialogue",
}
"""By preset and kind: the rows."""
ARCHITECTURES = {
    "summarization": "bart",
    "summarization_causal": "gpt2",
    "translation": "bart",
    "dialogue": "gpt2",
    "dialogue, encoder-decoder": "bart",
}
LONG = [f"word{number % 50}" for number in range(10_000)]
TEXT = " ".join(LONG)
LONG_ROWS: dict[str, dict[str, Any]] = {
    "classification": {"text": TEXT, "label": "odd"},
    "token_classification": {"tokens": LONG, "tags": ["O"] * len(LONG)},
    "question_answering": {
        "question": "Which?",
        "context": TEXT,
        "answers": {"text": ["word49"], "answer_start": [TEXT.rindex("word49")]},
    },
    "summarization": {"document": TEXT, "summary": "one"},
    "summarization_causal": {"document": TEXT, "summary": "one"},
    "translation": {"en": TEXT, "de": TEXT},
}
CUT = "--data.max_length 64: cuts 1 of 11 texts to predict for"
WITH_WINDOWS = ("token_classification", "question_answering")
"""Presets of tasks that cut nothing."""


def ten(kind: str) -> list[dict[str, Any]]:
    rows = ROWS[KINDS[kind]][:10]
    if kind == "classification":  # a name that occurs once can't be held out
        return [row | {"label": "odd" if number % 2 else "even"} for number, row in enumerate(rows)]
    if kind == "classification, several":
        return [row | {"label": ["odd", "even"][number % 2 :]} for number, row in enumerate(rows)]
    return rows


def fit(kind: str, rows: list[dict[str, Any]]) -> int:
    write(Path("rows.jsonl"), rows)
    architecture = ARCHITECTURES.get(kind, "bert")
    sizes = [f"--model.overrides={json.dumps(tiny(architecture))}", "--data.vocab_size=300", "--data.max_length=64"]
    if kind in ARCHITECTURES:
        sizes += [f"--model.architecture={architecture}", "--data.max_target_length=20"]
    steps = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--run_dir=run"]
    return main(["fit", "--config", kind.partition(",")[0], "--data.train=rows.jsonl", *sizes, *steps])


def predictions_after_a_fit(kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert fit(kind, rows) == 0
    assert main(["predict", "--run_dir=run", "--data.predict=rows.jsonl", "--output=out.jsonl"]) == 0
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_rows(kind: str, here: Path) -> None:
    found = predictions_after_a_fit(kind, ten(kind))
    assert [row["id"] for row in found] == [str(number) for number in range(10)]
    assert all(row["prediction"] is not None for row in found)


@pytest.mark.parametrize("kind", LONG_ROWS)
def test_a_row_of_ten_thousand_words(kind: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = predictions_after_a_fit(kind, [*ten(kind), LONG_ROWS[kind]])
    assert len(found) == 11
    assert found[-1]["prediction"] is not None
    screen = capfd.readouterr().err
    assert "cuts" not in screen if kind in WITH_WINDOWS else CUT in screen


@pytest.mark.parametrize("kind", ["dialogue", "dialogue, encoder-decoder"])
def test_a_turn_of_ten_thousand_words(kind: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "one"}]
    assert len(predictions_after_a_fit(kind, [*ROWS["Dialogue"], {"messages": turns}])) == 31
    assert re.search(r"--data.max_length 64: cuts \d+ of 31 texts to predict for", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("classification", {"label": "x"}, r"all \d+ rows have the one label 'x'; a classifier needs two or more"),
        ("classification, several", {"label": []}, "no row has a label; give rows with one or more"),
        ("token_classification", {"tags": ["O"]}, r"all \d+ words have the one tag 'O'"),
    ],
)
def test_one_label_is_refused(
    kind: str, label: dict[str, Any], message: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [row | label | ({"tokens": ["one"]} if "tags" in label else {}) for row in ten(kind)]
    assert fit(kind, rows) == 2
    assert re.search(f"^error: --data.train: {message}", capfd.readouterr().err, re.MULTILINE)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("kind", "label"), [("classification, several", ["x"]), ("classification, numbers", 0.5)], ids=str
)
def test_one_label_that_makes_sense_is_learned(kind: str, label: Any, here: Path) -> None:
    """Whether a text has it, or the one number of all."""
    found = predictions_after_a_fit(kind, [row | {"label": label} for row in ten(kind)])
    assert len(found) == 10
    assert all(row["prediction"] in ([], ["x"]) if label == ["x"] else row["prediction"] < 9 for row in found)


def test_questions_without_answers(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    none: dict[str, Any] = {"text": [], "answer_start": []}
    rows = [row | {"answers": none} for row in ROWS["QuestionAnswering"]]
    found = predictions_after_a_fit("question_answering", rows)
    assert {row["prediction"] for row in found} == {""}
    capfd.readouterr()
    assert main(["test", "--run_dir=run"]) == 0
    screen = capfd.readouterr().out
    assert re.search(r"test/exact_match +100\b", screen)
    assert "has_answer" not in screen
