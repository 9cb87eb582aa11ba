"""Token classification against transformers' own loss and pipeline, and against reading each word by itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import TokenClassification, TokenClassificationData
from row_files import trainer, write
from transformers import pipeline

from ptm_lightning.__main__ import main
from ptm_lightning.data.answers import Span
from ptm_lightning.data.formats import read_file
from ptm_lightning.data.tagged import word_spans, words_begun
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.metrics.token_classification import entity_scores
from ptm_lightning.testing_texts import example

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def sentences(count: int, join: int = 1) -> list[dict[str, Any]]:
    """Rows of words and tags, each of so many documents one after the other."""
    rows = [[example(number + i * 1000) for i in range(join)] for number in range(count)]
    return [{name: [one for row in group for one in row[name]] for name in ("tokens", "tags")} for group in rows]


def fitted(
    folder: Path, rows: list[dict[str, Any]], *callbacks: Any, max_steps: int = 0, **data: Any
) -> tuple[Any, Any]:
    arguments = {"vocab_size": 120, "max_length": 32, "stride": 11, "validation_share": 0.2, "batch_size": 16}
    module = TokenClassificationData(train=[write(folder / "rows.jsonl", rows)], **{**arguments, **data})
    task = TokenClassification(overrides=TINY, learning_rate=1e-2)
    trainer(folder, *callbacks, max_steps=max_steps).fit(task, module)
    return task, module


def predicted(task: Any, folder: Path, **data: Any) -> list[dict[str, Any]]:
    module = TokenClassificationData(**{"max_length": 32, "stride": 11, **data})
    return [one for batch in trainer(folder).predict(task, module) for one in batch]


def test_loss_equals_transformers(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, sentences(40))
    batch = next(batch for batch in data.train_dataloader() if batch["padded"])
    labels = torch.full_like(batch["input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    output = task.eval().network(
        input_ids=batch["input_ids"],
        attention_mask=(batch["document_ids"] > 0).long(),
        labels=labels.view_as(batch["input_ids"]),
    )
    term = task.terms(batch)["tags"]
    torch.testing.assert_close(term.sum / term.count, output.loss, rtol=1e-5, atol=1e-6)
    assert len(set(batch["targets"].tolist())) > 2


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_each_word_is_a_target_once_at_its_first_token(tmp_path: Path, algorithm: str) -> None:
    rows = sentences(30, join=6)
    _, data = fitted(tmp_path, rows, tokenizer_algorithm=algorithm, vocab_size=300)
    store, names = data.corpus.train, data.link.labels
    seen: dict[int, dict[int, str]] = {}
    for batch in data.train_dataloader():
        width = batch["input_ids"].shape[1]
        for place, word, tag in zip(
            *(batch[name].tolist() for name in ("target_index", "words", "targets")), strict=True
        ):
            mine = seen.setdefault(int(batch["examples"][place // width]), {})
            assert word not in mine
            mine[word] = names[tag]
            (row,) = store.rows([int(batch["examples"][place // width])])
            piece = data.hf_tokenizer.decode([int(batch["input_ids"].flatten()[place])]).strip()
            assert row["tokens"][word].lower().startswith(piece.lower())
    assert len(data.plan.chunk(0, 0).pieces.row) > 2 * len(store)
    for number, row in enumerate(store.rows(range(len(store)))):
        assert [seen[number][word] for word in range(len(row["tags"]))] == row["tags"]


def test_a_word_is_read_where_it_stands_furthest_from_an_end(tmp_path: Path) -> None:
    _, data = fitted(tmp_path, sentences(10, join=8))
    length, best, own = data.max_length, dict[Any, list[int]](), dict[Any, int]()
    for batch in data.train_dataloader():
        width = batch["input_ids"].shape[1]
        ends = (batch["document_ids"] > 0).sum(dim=1)
        for place, word in zip(batch["target_index"].tolist(), batch["words"].tolist(), strict=True):
            key = (int(batch["examples"][place // width]), word)
            own[key] = min(place % width, int(ends[place // width]) - 1 - place % width)
    shared = length - len(data.template) - 11
    assert sorted(own.values())[0] >= 1
    interior = [distance for (_, word), distance in own.items() if 20 < word < 40]
    assert min(interior) >= shared // 2
    assert not best


def test_scores_are_those_of_whole_sentences(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, sentences(40, join=5), max_steps=15)
    store, names = data.corpus.validation, data.link.labels
    rows = list(store.rows(range(len(store))))
    guessed = [["O"] * len(row["tags"]) for row in rows]
    records = []
    for batch in data.val_dataloader():
        with torch.no_grad():
            records += task.eval().evaluate(batch)[1]
            logits = task.network(**task.inputs(batch)).logits.flatten(0, 1)[batch["target_index"]]
        width = batch["input_ids"].shape[1]
        for place, word, tag in zip(
            batch["target_index"].tolist(), batch["words"].tolist(), logits.argmax(-1).tolist(), strict=True
        ):
            guessed[int(batch["examples"][place // width])][word] = names[tag]
    records.sort(key=lambda record: record["example"])
    assert len(records) > len(rows)
    right = [row["tags"] for row in rows]
    outside = [tag == "O" for tags in right for tag in tags]
    trivial = {"accuracy_majority": sum(outside) / len(outside)}  # O is the commonest
    assert task.score(records) == entity_scores(right, guessed, names) | trivial
    assert task.trainer.callback_metrics["val/f1"] == pytest.approx(task.score(records)["f1"])


def test_exported_pipeline_gives_equal_entities(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "saved", filename="last", every_n_train_steps=12)
    task, _ = fitted(tmp_path, sentences(60), saver, max_steps=12)
    folder = export(tmp_path / "saved" / "last.ckpt", tmp_path / "exported", TokenClassification, settings={})
    theirs = pipeline("token-classification", model=str(folder), aggregation_strategy="first", device="cpu")
    texts = [" ".join(row["tokens"]) for row in sentences(12)] + ["The  FOX, the 12th bear-cat (sees) 7,5 dogs."]
    texts = [text for text in texts if len(text) < 80]
    found = predicted(task, tmp_path, text=texts)
    assert sum(len(one["prediction"]) for one in found) > 10
    for one, text in zip(found, texts, strict=True):
        expected = theirs(text)
        assert [(e["entity"], e["start"], e["end"]) for e in one["prediction"]] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e["score"] for e in one["prediction"]] == pytest.approx([float(e["score"]) for e in expected], rel=1e-4)
        assert all(e["text"] == text[e["start"] : e["end"]] for e in one["prediction"])


def test_given_words_are_predicted_as_words(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, sentences(60), max_steps=12)
    rows = [{"id": f"n{n}", **row} for n, row in enumerate(sentences(6, join=4))]
    rows.append({"id": "odd", "tokens": ["\u200b\u0007", "cat-dog", "12"]})
    found = predicted(task, tmp_path, predict=[write(tmp_path / "asked.jsonl", rows)])
    assert [one["id"] for one in found] == [row["id"] for row in rows]
    for one, row in zip(found, rows, strict=True):
        borders = {border for span in word_spans(row["tokens"]) for border in span}
        assert all({e["start"], e["end"]} <= borders for e in one["prediction"])
    assert np.isfinite([e["score"] for one in found for e in one["prediction"]]).all()


def test_first_tokens_of_words() -> None:
    words = word_spans(["ab", "", "cd", "\u200b", "e"])
    assert words == [(0, 2), (3, 3), (4, 6), (7, 8), (9, 10)]
    offsets = [Span(0, 1), Span(1, 2), Span(4, 4), Span(4, 6), Span(9, 10)]
    assert words_begun(offsets, words) == [0, -1, -1, 2, 4]


def test_conll_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["-DOCSTART- -X- O", ""]
    for row in sentences(40):
        lines += [f"{token} X {tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True)] + [""]
    Path("train.conll").write_text("\n".join(lines))
    network = [f"--model.overrides={json.dumps(TINY)}", "--data.vocab_size=120", "--data.max_length=48"]
    limits = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--run_dir=run"]
    assert main(["fit", "--config=token_classification", "--data.train=train.conll", *network, *limits]) == 0
    assert main(["test", "--run_dir=run"]) == 0
    assert main(["predict", "--run_dir=run", "--data.predict=train.conll", "--output=out.jsonl"]) == 0
    found = [json.loads(line)["text"] for line in Path("out.jsonl").read_text().splitlines()]
    assert found == [" ".join(row["tokens"]) for row in sentences(40)]


def test_white_space_that_divides_no_columns_is_a_token(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text("Er B-PER\n\u00a0 O\n1\u00a0000\tB-NUM\r\n\n", encoding="utf-8")
    (row,) = (row for _, row in read_file(path, "--data.train", "line"))
    assert row == {"tokens": ["Er", "\u00a0", "1\u00a0000"], "tags": ["B-PER", "O", "B-NUM"]}


def test_tags_that_mark_nothing_have_an_accuracy(tmp_path: Path) -> None:
    rows = [
        row | {"tags": ["NUM" if token.isdecimal() else "WORD" for token in row["tokens"]]} for row in sentences(40)
    ]
    task, _ = fitted(tmp_path, rows, max_steps=12)
    assert task.best_by() == ("val/accuracy", "max")
    assert "val/f1" not in task.trainer.callback_metrics
    (one,) = predicted(task, tmp_path, text=["the cat sees 12"])
    assert [e["text"] for e in one["prediction"]] == ["the", "cat", "sees", "12"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "rows.jsonl:3: 2 tokens have 1 tags"),
        ({"tokens": ["a"]}, "rows.jsonl:3: no tags; the row's columns are tokens; .*--data.columns.tags"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "rows.jsonl:3: tokens and tags must be lists"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, "rows.jsonl:3: column 'tokens' holds .*not text"),
        ({"tokens": ["a"], "tags": [["O"]]}, "rows.jsonl:3: the label .* is no name"),
        ({"text": "a"}, "rows.jsonl:3: no column 'tokens'; the columns are text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fitted(tmp_path, [*sentences(2), row, *sentences(9)])


def test_words_that_all_have_one_tag_are_refused(tmp_path: Path) -> None:
    rows = [row | {"tags": ["O"] * len(row["tags"])} for row in sentences(20)]
    with pytest.raises(UserError, match=r"--data.train: all \d+ words have the one tag 'O'.*--data.columns.tags"):
        fitted(tmp_path, rows)


def test_a_tag_that_keeps_entities_from_being_scored_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = sentences(20)
    rows[3]["tags"][0] = "domain=en"
    fitted(tmp_path, rows)
    assert "the tag domain=en marks no entity, as the others do" in caplog.text


def test_plain_text_is_predicted_for(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, sentences(40), max_steps=2)
    (tmp_path / "asked.txt").write_text("the cat sees 12\na dog\n")
    found = predicted(task, tmp_path, predict=[str(tmp_path / "asked.txt")])
    assert [one["text"] for one in found] == ["the cat sees 12", "a dog"]


def test_a_text_of_ten_thousand_words(tmp_path: Path) -> None:
    (row,) = sentences(1, join=800)
    task, _ = fitted(tmp_path, [row, *sentences(9)], max_steps=1)
    (one,) = predicted(task, tmp_path, text=[" ".join(row["tokens"])])
    assert one["text"].count(" ") > 8_000
