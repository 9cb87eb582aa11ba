"""The threshold above which a question has no answer: where it is found, carried and taken from."""

from pathlib import Path

import pytest
from asking import NONE, TINY, fitted, predicted, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import QuestionAnswering, QuestionAnsweringData
from row_files import write
from transformers import (
    AutoModelForQuestionAnswering,
)

from ptm_lightning.export import export
from ptm_lightning.testing_texts import example


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


def test_a_model_that_was_taught_an_answer_to_every_question_gives_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = write(tmp_path / "held_out.jsonl", [example(n) | {"answers": NONE} for n in range(100, 120)])
    rows = [row for row in map(example, range(80)) if row["answers"]["text"]]
    task, data = fitted(tmp_path, rows, max_steps=4, validation=[held_out], test=[held_out])
    assert task.threshold is None
    assert task.trainer.callback_metrics["val/f1"] == 0 < task.trainer.callback_metrics["val/best_f1"]
    assert (
        "--model.no_answer_threshold: 20 of 20 validation questions have no answer, but all in training" in caplog.text
    )
    (metrics,) = trainer(tmp_path).test(task, data, verbose=False)
    assert metrics["test/f1"] == 0
    assert all(one["prediction"] for one in predicted(task, tmp_path, [example(number) for number in range(9)]))
    given, _ = fitted(tmp_path, rows, {"no_answer_threshold": -1e9}, max_steps=1, validation=[held_out])
    assert given.trainer.callback_metrics["val/f1"] == 100


def test_test_takes_the_threshold_that_was_trained(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, max_steps=5)
    task.keep(no_answer_threshold=1234.0)
    (metrics,) = trainer(tmp_path).test(task, data, verbose=False)
    assert task.threshold == 1234.0
    assert metrics["test/no_answer_accuracy"] == 0.0


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
