"""Rows of tasks that answer with text: sides that are cut, lack or are lists, and what is shown of them."""

from pathlib import Path
from typing import Any

import pytest
from answering import summaries_file, trainer_for, write
from ptm_lightning.tasks import SummarizationData, TranslationData
from summarizing import prepared

from ptm_lightning.errors import UserError
from ptm_lightning.testing_texts import document


def test_plain_text_is_predicted_for_and_cuts_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task, _ = prepared(summaries_file(tmp_path), steps=1)
    (tmp_path / "texts.txt").write_text(f"short\n{'long ' * 300}\n")
    module = SummarizationData(predict=[str(tmp_path / "texts.txt")], max_length=64)
    (found,) = trainer_for(tmp_path, 0).predict(task, module)
    assert [row["text"] for row in found] == ["short", "long " * 300]
    assert "--data.max_length 64: cuts 1 of 2 texts to predict for" in caplog.text


def test_sides_are_cut_apart_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"document": "a " * (5 if i % 2 else 90), "summary": "b " * (90 if i % 4 else 5)} for i in range(40)]
    _, data = prepared(
        write(tmp_path / "rows.jsonl", rows), max_length=32, max_target_length=16, validation_share=0.25, test_share=0
    )
    assert "--data.max_length 32: cuts " in caplog.text
    assert "--data.max_target_length 16: cuts " in caplog.text
    for batch in data.train_dataloader():
        assert batch["input_ids"].shape[1] <= 32
        assert batch["decoder_input_ids"].shape[1] <= 16
        assert batch["targets"][batch["decoder_lengths"].cumsum(0) - 1].eq(data.hf_tokenizer.eos_token_id).all()
    assert data.link.max_length == 32
    assert data.link.target_side["max_length"] == 16


def test_rows_that_lack_a_side_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"document": document(i), "summary": "" if i % 5 == 0 else " \n" if i % 5 == 1 else "s"} for i in range(40)]
    _, data = prepared(write(tmp_path / "rows.jsonl", rows))
    data.setup("test")
    stores = {"train": data.corpus.train, "validation": data.corpus.validation, "test": data.corpus.test}
    left_out = {name: store.info["empty"] for name, store in stores.items()}
    for name, count in left_out.items():
        assert f"--data.{name}: {count} rows are left out, for document or summary is empty in them" in caplog.text
    assert sum(left_out.values()) == 16
    assert data.corpus.provenance["incomplete"] == left_out
    assert sum(map(len, stores.values())) == 24
    assert data.corpus.sources == (0, len(data.corpus.train))
    assert {row["summary"] for store in stores.values() for row in store.rows(range(len(store)))} == {"s"}
    with pytest.raises(UserError, match=r"--data.train: no row that can be used"):
        prepared(write(tmp_path / "none.jsonl", [{"document": document(i), "summary": ""} for i in range(20)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"max_length": 2}, r"--data.max_length 2: no room beside 2 special tokens"),
        ({"max_target_length": 2}, r"--data.max_target_length 2: no room beside 2 special tokens"),
        ({"columns": {"summary": "tldr"}}, r"no column 'tldr'; the columns are document, summary"),
    ],
)
def test_wrong_data_are_refused(tmp_path: Path, data: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        prepared(summaries_file(tmp_path), **data)


def test_examples_show_answer_and_score(tmp_path: Path):
    task, data = prepared(summaries_file(tmp_path))
    batch: Any = next(iter(data.val_dataloader()))
    task.answers = lambda inputs: [row["summary"] for row in batch["rows"]]
    shown = task.examples(batch)
    assert [row["source"] for row in shown] == [row["document"] for row in batch["rows"]]
    assert all(row["reference"] == row["answer"] and row["score"] == "1.000" for row in shown)
    assert "targets: " in data.show_row(batch, 0)


def test_a_text_without_columns_is_the_first_field():
    assert [t.text for t in TranslationData(text=["one"]).predict_inputs()] == ["one"]


@pytest.mark.parametrize("several", [3, 1])
def test_a_list_of_targets_are_several_right_answers(tmp_path: Path, several: int):
    """The first one is learned, all are compared with; the sides of a row may be lists of words no less."""
    rows = [
        {"document": document(i).split(), "summary": [f"right {n} of {i}" for n in range(several if i % 2 else 1)]}
        for i in range(40)
    ]
    task, data = prepared(write(tmp_path / "rows.jsonl", rows), max_target_length=60)
    batch: Any = next(iter(data.val_dataloader()))
    targets = batch["targets"].split(batch["decoder_lengths"].tolist())
    for row, ids in zip(batch["rows"], targets, strict=True):
        assert data.hf_tokenizer.decode(ids, skip_special_tokens=True).strip() == row["summary"][0]
    task.answers = lambda inputs: [row["summary"][-1] for row in batch["rows"]]
    for row, shown in zip(batch["rows"], task.examples(batch), strict=True):
        assert shown["source"] == " ".join(row["document"])
        assert (shown["reference"], shown["score"]) == (" | ".join(row["summary"]), "1.000")
    task.trainer.state.fn = "validate"
    _, records = task.evaluate(batch)
    task.complete(records)
    assert task.score(records)["rougeL"] == 1
    assert data.corpus.provenance.get("references") == ([1, 3] if several == 3 else None)
