"""Question answering against transformers' own loss and a naive search over windows; thresholds; bad and odd data."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import QuestionAnswering, QuestionAnsweringData
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)

from ptm_lightning.__main__ import main
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.metrics.question_answering import Answered, answer_scores, best_threshold
from ptm_lightning.testing_texts import example

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
NONE: dict[str, Any] = {"text": [], "answer_start": []}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    """Validates at the end."""
    if settings.get("max_steps"):
        settings = {"val_check_interval": settings["max_steps"], "check_val_every_n_epoch": None} | settings
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder, **{"max_steps": 0, **settings},
    )  # fmt: skip


def fitted(
    folder: Path, rows: list[dict[str, Any]] | None = None, task: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, Any]:
    """A task and its data; `settings` are of the trainer or the data."""
    limits = {name: settings.pop(name) for name in ("max_steps", "limit_val_batches") if name in settings}
    arguments = {"vocab_size": 300, "max_length": 32, "stride": 7, "validation_share": 0.2, "batch_size": 16}
    sources = [write(folder / "rows.jsonl", rows or [example(number) for number in range(60)])]
    data = QuestionAnsweringData(train=sources, **{**arguments, **settings})
    model = QuestionAnswering(overrides=TINY, **(task or {}))
    trainer(folder, **limits).fit(model, data)
    return model, data


def alone(batch: Any, row: int) -> dict[str, torch.Tensor]:
    """The network's arguments for a row without its padding."""
    real = batch["document_ids"][row] > 0
    return {name: batch[name][row : row + 1, real] for name in ("input_ids", "token_type_ids")}


def test_loss_and_gradient_equal_transformers(tmp_path: Path) -> None:
    task, data = fitted(tmp_path)
    assert type(task.network) is BertForQuestionAnswering
    batch = next(batch for batch in data.train_dataloader() if batch["padded"])
    assert (batch["spans"] == batch["nulls"][:, None]).any()
    assert (batch["spans"] != batch["nulls"][:, None]).any()
    loss = task.eval().terms(batch)["span"].sum / task.terms(batch)["span"].count
    loss.backward()
    ours = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    task.zero_grad()
    rows = range(len(batch["input_ids"]))
    positions = [dict(zip(("start_positions", "end_positions"), pair.split(1), strict=True)) for pair in batch["spans"]]
    theirs = torch.stack([task.network(**alone(batch, row), **positions[row]).loss for row in rows]).mean()
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    for name, parameter in task.network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_loss_of_a_batch_without_padding_is_transformers_own(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, batch_size=1)
    for batch, _ in zip(data.train_dataloader(), range(5), strict=False):
        start, end = batch["spans"].unbind(dim=1)
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")}
        theirs = task.eval().network(**inputs, start_positions=start, end_positions=end).loss
        torch.testing.assert_close(task.terms(batch)["span"].sum, theirs)


def searched(task: Any, batch: Any, longest: int) -> dict[int, tuple[float, float, tuple[int, int]]]:
    """By example: the score of no answer, and the best span of all windows and its score, found one by one."""
    found: dict[int, tuple[float, float, tuple[int, int]]] = {}
    for row, example_number in enumerate(batch["examples"].tolist()):
        with torch.no_grad():
            output = task.network(**alone(batch, row))
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        characters = batch["characters"][row].tolist()
        context = [place for place, (begin, _) in enumerate(characters) if begin >= 0]
        spans = [
            (start[first] + end[last], (characters[first][0], characters[last][1]))
            for first in context
            for last in context
            if first <= last < first + longest
        ]
        null, best, span = found.get(example_number, (math.inf, -math.inf, (0, 0)))
        score, place = max(spans)
        found[example_number] = (
            min(null, start[0] + end[0]),
            *((score, place) if score > best else (best, span)),
        )
    return found


PLACES = ("input_ids", "token_type_ids", "document_ids", "characters")


def padded(column: torch.Tensor, width: int) -> torch.Tensor:
    wider = torch.full((len(column), width, *column.shape[2:]), -1 if column.ndim == 3 else 0)
    wider[:, : column.shape[1]] = column
    return wider


def test_scores_are_those_of_the_best_over_windows(tmp_path: Path) -> None:
    rows = [example(number) for number in range(80)]
    for row in rows:
        if row["answers"]["text"]:
            row["answers"] = {name: values * 2 for name, values in row["answers"].items()}
    task, data = fitted(tmp_path, rows, {"max_answer_tokens": 5}, max_steps=20)
    batches = list(data.val_dataloader())
    records, windows = [], 0
    for batch in batches:
        windows += len(batch["input_ids"])
        with torch.no_grad():
            records += task.eval().evaluate(batch)[1]
    by_example: dict[int, Any] = {}
    width = max(batch["input_ids"].shape[1] for batch in batches)
    whole = {name: torch.cat([padded(batch[name], width) for batch in batches]) for name in PLACES}
    whole["examples"] = torch.cat([batch["examples"] for batch in batches])
    every_row = [row for batch in batches for row in batch["rows"]]
    for number, row in zip(whole["examples"].tolist(), every_row, strict=True):
        by_example[number] = row
    answered = [
        Answered(by_example[n]["answers"]["text"], by_example[n]["context"][slice(*span)], null - best)
        for n, (null, best, span) in sorted(searched(task, whole, 5).items())
    ]
    assert windows > len(by_example)
    assert sum(not one.right for one in answered) > 1
    records.sort(key=lambda record: record["example"])
    threshold = best_threshold(answered)
    assert task.score(records) == pytest.approx(answer_scores(answered, threshold), rel=1e-4)
    assert task.threshold == pytest.approx(threshold, abs=1e-4)


def test_threshold_is_carried_by_checkpoint_and_export(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "saved", filename="validated", save_on_train_epoch_end=False)
    rows = write(tmp_path / "rows.jsonl", [example(number) for number in range(60)])
    data = QuestionAnsweringData(train=[rows], vocab_size=300, max_length=32, stride=7, validation_share=0.2)
    task = QuestionAnswering(overrides=TINY)
    trainer(tmp_path, saver, max_steps=3).fit(task, data)
    assert task.threshold is not None
    checkpoint = tmp_path / "saved" / "validated.ckpt"
    loaded = QuestionAnswering.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    assert loaded.threshold == task.threshold
    folder = export(checkpoint, tmp_path / "exported", QuestionAnswering, settings={})
    assert AutoModelForQuestionAnswering.from_pretrained(folder).config.no_answer_threshold == task.threshold
    begun = QuestionAnswering(backbone=str(folder))
    trainer(tmp_path).predict(begun, QuestionAnsweringData(predict=[rows], max_length=32, stride=7))
    assert begun.threshold == task.threshold
    assert QuestionAnswering(no_answer_threshold=2.5).threshold == 2.5
    going_on = QuestionAnswering(overrides=TINY)
    again = QuestionAnsweringData(train=[rows], vocab_size=300, max_length=32, stride=7, validation_share=0.2)
    trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(going_on, again, ckpt_path=checkpoint, weights_only=True)
    assert going_on.threshold == task.threshold


def test_without_unanswerable_questions_all_are_answered(tmp_path: Path) -> None:
    rows = [row for row in map(example, range(80)) if row["answers"]["text"]]
    task, data = fitted(tmp_path, rows, max_steps=4)
    assert task.threshold is None
    (found,) = trainer(tmp_path).predict(
        task, QuestionAnsweringData(predict=data.train, max_length=32), return_predictions=True
    )[:1]
    assert all(one["prediction"] for one in found)


def test_test_takes_the_threshold_that_was_trained(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, max_steps=5)
    task.keep(no_answer_threshold=1234.0)
    (metrics,) = trainer(tmp_path).test(task, data, verbose=False)
    assert task.threshold == 1234.0
    assert metrics["test/no_answer_accuracy"] == 0.0


def predicted(task: Any, folder: Path, rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    data = QuestionAnsweringData(predict=[write(folder / "asked.jsonl", rows)], **{"max_length": 32, **settings})
    return [one for batch in trainer(folder).predict(task, data) for one in batch]


def test_predictions_are_stretches_of_the_context(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, None, {"no_answer_threshold": 1e9, "n_best": 7}, max_steps=2)
    words = " ".join(f"w{number}" for number in range(3000))
    rows = [example(number) | {"id": f"asked {number}"} for number in range(9)]
    rows[3]["context"] = f"  Naïve\u3000 北京大学 {words}"
    rows[5]["context"] = "\x07"  # no token
    found = predicted(task, tmp_path, rows)
    assert [one["id"] for one in found] == [row["id"] for row in rows]
    for one, row in zip(found, rows, strict=True):
        assert one["question"] == row["question"]
        assert one["answers"] == sorted(one["answers"], key=lambda answer: -answer["score"])
        for answer in one["answers"]:
            assert answer["text"] == row["context"][answer["start"] : answer["end"]] == answer["text"].strip()
        assert len({(answer["start"], answer["end"]) for answer in one["answers"]}) == len(one["answers"]) <= 7
        chances = sum(answer["score"] for answer in one["answers"])
        assert one["prediction"] == (one["answers"][0]["text"] if one["answers"] else "")
        assert 0 < chances < 1 or not one["answers"]
        assert json.loads(json.dumps(one, allow_nan=False)) == one
    assert found[5] | {"score": 1.0, "doubt": None} == found[5]
    alone_found = [predicted(task, tmp_path, [row])[0] for row in rows[2:5]]
    for one, other in zip(alone_found, found[2:5], strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)


def test_doubt_above_the_threshold_gives_no_answer(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, max_steps=2)
    rows = [example(number) for number in range(9)]
    task.no_answer_threshold = 0.0
    doubts = [one["doubt"] for one in predicted(task, tmp_path, rows)]
    task.no_answer_threshold = sorted(doubts)[4]
    found = predicted(task, tmp_path, rows)
    assert [one["prediction"] == "" for one in found] == [doubt > sorted(doubts)[4] for doubt in doubts]
    for one in found:
        assert one["score"] == pytest.approx(one["answers"][0]["score"]) or one["prediction"] == ""


def test_a_pretrained_model_without_a_threshold_takes_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, data = fitted(tmp_path, max_steps=2)
    task.keep(no_answer_threshold=None)
    task.network.save_pretrained(tmp_path / "model")
    data.hf_tokenizer.save_pretrained(tmp_path / "model")
    rows = [example(number) for number in range(9)] + [example(9) | {"answers": NONE}]
    found = {}
    for threshold in (None, 0.0):
        alone = QuestionAnswering(backbone=str(tmp_path / "model"), no_answer_threshold=threshold)
        source = write(tmp_path / "test.jsonl", rows)
        (found[threshold],) = trainer(tmp_path).test(
            alone, QuestionAnsweringData(test=[source], max_length=32, stride=7), verbose=False
        )
        assert alone.threshold == 0
    assert found[None] == found[0.0]
    assert caplog.text.count("and some questions have no answer: 0 is used") == 1


def test_a_threshold_that_is_given_is_the_exported_one(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, max_steps=2, task={"no_answer_threshold": 2.5})
    assert task.network.config.no_answer_threshold == 2.5


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
