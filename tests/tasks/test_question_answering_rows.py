"""Question answering on few, odd, long and bad rows, on networks with another head, and by the command line."""

import json
import math
import re
from pathlib import Path

import pytest
from asking import NONE, TINY, fitted, predicted, trainer
from ptm_lightning.tasks import QuestionAnswering, QuestionAnsweringData
from row_files import write
from transformers import (
    BertConfig,
    BertForSequenceClassification,
)

from ptm_lightning.__main__ import main
from ptm_lightning.errors import UserError
from ptm_lightning.testing_texts import example


@pytest.mark.parametrize("rows", [10, 12])
def test_few_rows_train(tmp_path: Path, rows: int) -> None:
    task, data = fitted(tmp_path, [example(number) for number in range(rows)], max_steps=2)
    assert len(data.corpus.validation) >= 1
    assert task.trainer.callback_metrics["val/f1"] >= 0


def test_only_unanswerable_questions_train(tmp_path: Path) -> None:
    rows = [example(number) | {"answers": NONE} for number in range(40)]
    task, _ = fitted(tmp_path, rows, max_steps=3)
    assert task.trainer.callback_metrics["val/f1"] == 100
    assert task.trainer.callback_metrics["val/no_answer_accuracy"] == 100
    assert "val/has_answer_f1" not in task.trainer.callback_metrics
    assert {one["prediction"] for one in predicted(task, tmp_path, rows)} == {""}


def test_contexts_of_ten_thousand_words(tmp_path: Path) -> None:
    words = " ".join(f"w{number % 40}" for number in range(10_000))
    rows = [{"question": "where ?", "context": f"{words} end{n}", "answers": NONE} for n in range(4)]
    for number, row in enumerate(rows):
        answer = f"end{number}"
        row["answers"] = {"text": [answer], "answer_start": [str(row["context"]).rindex(answer)]}
    task, data = fitted(tmp_path, rows, max_steps=1, max_length=128, stride=100, limit_val_batches=1)
    windows = list(data.plan.chunk(0, 0).pieces.row)
    assert len(windows) > 150
    assert len(predicted(task, tmp_path, rows[:1], max_length=128)) == 1


def test_missing_columns_are_named(tmp_path: Path) -> None:
    rows = [{"text": "a cat", "question": "who ?", "answers": NONE}] * 9
    with pytest.raises(
        UserError, match=r"no column 'context'; the columns are .*text.*, question, answers; name yours with"
    ):
        fitted(tmp_path, rows)
    with pytest.raises(UserError, match=r"rows.jsonl:1: no answers; the row's columns are context, question"):
        fitted(tmp_path, [{"context": "a cat", "question": "who ?"}] * 9)


@pytest.mark.parametrize("name", ["n_best", "max_answer_tokens"])
def test_no_answers_at_all_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--model.{name} 0: give 1 or more"):
        QuestionAnswering(**{name: 0})  # type: ignore[arg-type]


def test_a_head_for_other_labels_is_replaced(tmp_path: Path) -> None:
    task, data = fitted(tmp_path)
    folder = tmp_path / "classifier"
    BertForSequenceClassification(BertConfig(vocab_size=task.link.vocabulary, num_labels=5, **TINY)).save_pretrained(
        folder
    )
    data.hf_tokenizer.save_pretrained(folder)
    begun = QuestionAnswering(backbone=str(folder))
    trainer(tmp_path).fit(begun, QuestionAnsweringData(train=data.train, max_length=32, stride=7))
    assert begun.network.qa_outputs.weight.shape == (2, 32)


def test_the_command_line_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [example(number) for number in range(40)]
    articles = [
        {
            "title": "one",
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [
                        {
                            "id": row["id"],
                            "question": row["question"],
                            "is_impossible": not row["answers"]["text"],
                            "answers": [
                                {"text": text, "answer_start": start}
                                for text, start in zip(*row["answers"].values(), strict=True)
                            ],
                        }
                    ],
                }
                for row in rows
            ],
        }
    ]
    Path("squad.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    network = [f"--model.overrides={json.dumps(TINY)}", "--data.vocab_size=300", "--data.max_length=48"]
    limits = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--run_dir=run"]
    assert main(["fit", "--config=question_answering", "--data.train=squad.json", *network, *limits]) == 0
    assert main(["test", "--run_dir=run"]) == 0
    for output in ("answers.json", "answers.jsonl"):
        assert main(["predict", "--run_dir=run", "--data.predict=squad.json", f"--output={output}"]) == 0
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert json.loads(Path("answers.json").read_text()) == {line["id"]: line["prediction"] for line in lines}
    assert [line["id"] for line in lines] == [row["id"] for row in rows]


def test_there_is_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", [example(number) for number in range(40)])
    network = [f"--model.overrides={json.dumps(TINY)}", "--data.vocab_size=300", "--data.max_length=48"]
    assert main(["check", "--config=question_answering", f"--data.train={rows}", *network]) == 2
    message = "error: check: QuestionAnswering hides nothing from its targets; inspect shows its batches"
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_a_window_of_white_space_alone_holds_no_answer(tmp_path: Path) -> None:
    rows = [example(number) for number in range(30)]
    gaps = [row | {"context": row["context"] + " \n" * 60 + "the end"} for row in rows[:5]]
    held_out = [write(tmp_path / "gaps.jsonl", gaps)]
    task, _ = fitted(tmp_path, rows, max_steps=1, tokenizer_algorithm="bpe", validation=held_out)
    assert math.isfinite(float(task.trainer.callback_metrics["val/f1"]))


def test_answers_that_are_too_long_to_be_given_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tmp_path, task={"max_answer_tokens": 1})
    for name in ("training", "validation"):
        told = rf"--model.max_answer_tokens 1: [\d,]+ of [\d,]+ {name} questions have a longer answer; give more"
        assert re.search(told, caplog.text)
