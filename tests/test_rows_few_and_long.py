"""Every downstream preset with ten rows, and with one of ten thousand words: fit, then predict."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from task_rows import ROWS

from ptm_lightning.__main__ import main
from ptm_lightning.testing_case import tiny

PRESETS = {
    "classification": "SequenceClassification",
    "token_classification": "TokenClassification",
    "question_answering": "QuestionAnswering",
    "summarization": "Summarization",
    "translation": "Translation",
    "dialogue": "Dialogue",
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
    "translation": {"en": TEXT, "de": TEXT},
}
ARCHITECTURES = {"summarization": "bart", "translation": "bart", "dialogue": "gpt2"}
CUT = {
    "classification": "--data.max_length 64: cuts 1 of 11 texts to predict for",
    "summarization": "--data.max_length 64: cuts 1 of 11 texts to predict for",
    "translation": "--data.max_length 64: cuts 1 of 11 texts to predict for",
}
"""What is said of the long row; the tasks that aren't here have windows for it."""


def ten(preset: str) -> list[dict[str, Any]]:
    rows = ROWS[PRESETS[preset]][:10]
    if preset == "classification":
        return [row | {"label": "odd" if number % 2 else "even"} for number, row in enumerate(rows)]
    return rows


def predictions_after_a_fit(preset: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = json.dumps(tiny(ARCHITECTURES.get(preset, "bert")))
    sizes = [f"--model.overrides={small}", "--data.vocab_size=300", "--data.max_length=64"]
    steps = ["--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", preset, "--data.train=rows.jsonl", "--run_dir=run", *sizes, *steps]) == 0
    assert main(["predict", "--run_dir=run", "--data.predict=rows.jsonl", "--output=out.jsonl"]) == 0
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("preset", PRESETS)
def test_ten_rows(preset: str, here: Path) -> None:
    found = predictions_after_a_fit(preset, ten(preset))
    assert [row["id"] for row in found] == [str(number) for number in range(10)]


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"dialogue"}))
def test_a_row_of_ten_thousand_words(preset: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = predictions_after_a_fit(preset, [*ten(preset), LONG_ROWS[preset]])
    assert len(found) == 11
    assert found[-1]["prediction"] is not None
    screen = capfd.readouterr().err
    assert CUT[preset] in screen if preset in CUT else "cuts" not in screen


def test_a_turn_of_ten_thousand_words(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "one"}]
    assert len(predictions_after_a_fit("dialogue", [*ROWS["Dialogue"], {"messages": turns}])) == 31
    assert re.search(r"--data.max_length 64: cuts \d+ of 31 texts to predict for", capfd.readouterr().err)
