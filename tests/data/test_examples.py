"""Which rows are held out, and what a store of examples holds."""

import json
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import SequenceClassification, SequenceClassificationData
from row_files import write
from tokenizers import Tokenizer

from ptm_lightning.data.held_out import held_out
from ptm_lightning.data.labelled import LabelledTexts
from ptm_lightning.data.labels import Labels
from ptm_lightning.data.predict import Text
from ptm_lightning.data.sides import Sides
from ptm_lightning.data.text_batches import number
from ptm_lightning.data.tokenizer import meaning_special, plain
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.testing_texts import example

ROWS = [example(i) for i in range(120)]


def set_up(tmp_path: Path, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> SequenceClassificationData:
    source = write(tmp_path / f"train-{number(json.dumps(rows).encode())}.jsonl", rows)
    arguments = {"train": [source], "vocab_size": 200, "max_length": 32, "cache_dir": str(tmp_path / "cache")}
    data = SequenceClassificationData(**(arguments | settings))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(SequenceClassification(overrides={"num_hidden_layers": 1}))
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    return data


def texts(store: Any) -> list[str]:
    return [row["text"] for row in store.rows(range(len(store)))]


def test_each_label_is_held_out_in_its_share(tmp_path: Path):
    data = set_up(tmp_path, [{"text": f"text {i}", "label": "ab"[i % 5 == 0]} for i in range(200)])
    stores = data.corpus.train, data.corpus.validation, data.corpus.test
    counts = [Counter(row["label"] for row in store.rows(range(len(store)))) for store in stores]
    assert counts == [{"a": 128, "b": 32}, {"a": 16, "b": 4}, {"a": 16, "b": 4}]
    assert sorted(text for store in stores for text in texts(store)) == sorted(f"text {i}" for i in range(200))


def test_copies_of_a_row_fall_on_the_same_side(tmp_path: Path):
    rows = [{"text": f"text {i % 40}", "label": "ab"[i % 2]} for i in range(200)]
    data = set_up(tmp_path, rows)
    sides = [set(texts(store)) for store in (data.corpus.train, data.corpus.validation, data.corpus.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40
    assert all(sides)


def test_more_rows_leave_most_where_they_are():
    hashes = np.array([number(str(i).encode()) for i in range(1000)], dtype=np.uint64)
    strata = np.zeros(1000, dtype=np.uint64)
    before, after = held_out(hashes[:900], strata[:900], (0.1, 0.1)), held_out(hashes, strata, (0.1, 0.1))
    assert (before != after[:900]).mean() < 0.05


def test_rare_strata_give_their_share_together():
    hashes = np.array([number(str(i).encode()) for i in range(750)], dtype=np.uint64)
    strata = np.array([number(f"label {i % 150}".encode()) for i in range(750)], dtype=np.uint64)
    split = held_out(hashes, strata, (0.1, 0.1))
    assert np.bincount(split).tolist() == [600, 75, 75]
    assert all((split[strata == stratum] > 0).sum() == 1 for stratum in strata)
    order = np.random.default_rng(0).permutation(750)
    assert (held_out(hashes[order], strata[order], (0.1, 0.1)) == split[order]).all()
    alone = np.arange(750, dtype=np.uint64)
    assert np.bincount(held_out(hashes, alone, (0.1, 0.2))).tolist() == [748, 1, 1]


def test_a_few_rows_are_held_out_from_a_stratum_of_several():
    hashes, strata = np.array([10, 11, 12, 13, 1], np.uint64), np.array([1, 1, 1, 1, 2], np.uint64)
    assert held_out(hashes, strata, (0.1, 0.1)).tolist() == [2, 1, 0, 0, 0]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("rare", range(40))
def test_each_stratum_keeps_a_row_for_training(rare: int, copies: int):
    hashes = np.array([number(str(i).encode()) for i in range(14)] + copies * [rare << 58], dtype=np.uint64)
    strata = np.array(14 * [1 << 32] + copies * [(2 * rare + 1) << 30], dtype=np.uint64)
    split = held_out(hashes, strata, (0.1, 0.1))
    assert (split[14:] == 0).all()
    assert set(split.tolist()) == {0, 1, 2}


def test_rows_are_held_out_together_with_their_copies_however_few_they_are():
    hashes = np.array([7, 3, 3, 9], dtype=np.uint64)
    assert held_out(hashes, np.zeros(4, dtype=np.uint64), (0.1, 0.0)).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_few_rows_give_a_validation_too(tmp_path: Path, count: int):
    data = set_up(tmp_path, [{"text": f"text {i}", "label": str(i)} for i in range(count)], test_share=0.0)
    assert len(data.corpus.validation) == 1
    assert len(data.corpus.train) == count - 1


def test_one_row_cannot_be_split(tmp_path: Path):
    with pytest.raises(UserError, match=r"--data\.validation: too few rows to hold a share out; give a source"):
        set_up(tmp_path, [{"text": "a text", "label": 0.5}])


def test_sources_of_their_own_are_not_split(tmp_path: Path):
    other = write(tmp_path / "dev.jsonl", [example(i) for i in range(500, 520)])
    data = set_up(tmp_path, validation=[other], test=[other])
    assert len(data.corpus.train) == len(ROWS)
    assert texts(data.corpus.validation) == [example(i)["text"] for i in range(500, 520)]


def test_rows_of_other_splits_in_training_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    other = write(tmp_path / "dev.jsonl", ROWS[:7])
    data = set_up(tmp_path, [*ROWS, ROWS[0]], validation=[other], test_share=0.0)
    assert data.corpus.provenance["duplicates"] == {"within train": 1, "validation in train": 7}
    assert "rows whose text occurs before: 1 within train, 7 validation in train" in caplog.text


def test_batches_hold_the_rows_with_their_labels(tmp_path: Path):
    data = set_up(tmp_path, pair=True, batch_tokens=None, batch_size=7, max_length=64)
    store, names = data.corpus.train, data.link.labels
    trainer = data.trainer
    assert trainer is not None
    seen: Counter[int] = Counter()
    for batch in data.train_dataloader():
        rows = list(store.rows(batch["examples"].tolist()))
        seen.update(batch["examples"].tolist())
        theirs = data.hf_tokenizer(
            [row["text"] for row in rows], [row["pair"] for row in rows], padding=True, truncation="longest_first",
            max_length=64, return_tensors="pt",
        )  # fmt: skip
        assert batch["input_ids"].equal(theirs["input_ids"])
        assert batch["token_type_ids"].equal(theirs["token_type_ids"])
        assert batch["labels"].equal(torch.tensor([names.index(row["label"]) for row in rows]))
        assert batch["counts"] == {"classification": len(rows), "tokens": int(theirs["attention_mask"].sum())}
    assert set(seen.values()) == {1}
    assert len(seen) == len(store)


def test_a_text_without_tokens_is_left_out_and_the_labels_stay_with_their_texts(tmp_path: Path):
    rows = [{"text": "\x00\x01" if i % 3 == 0 else f"text {i}", "label": str(i % 2)} for i in range(30)]
    data = set_up(tmp_path, rows, test_share=0.0, validation=[write(tmp_path / "dev.jsonl", rows[1:3])])
    store = data.corpus.train
    assert isinstance(store.info["empty"], int)
    kept = list(store.rows(range(len(store))))
    assert [row["text"] for row in kept] == [row["text"] for row in rows if row["text"].startswith("text")]
    assert store.columns["label"].tolist() == [data.link.labels.index(row["label"]) for row in kept]


def test_blank_rows_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = set_up(tmp_path, [{"text": " ", "label": "x"}, *ROWS, {"text": ""}])
    assert "--data.train: 2 blank rows are left out" in caplog.text
    assert sum(map(len, (data.corpus.train, data.corpus.validation, data.corpus.test))) == len(ROWS)


def test_long_rows_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    held_out = [write(tmp_path / f"{n}.jsonl", [{"text": "a b " * 9, "label": "bear"}] * n) for n in (2, 3)]
    data = set_up(tmp_path, max_length=8, validation=held_out[:1], test=held_out[1:])
    assert f"--data.max_length 8: cuts {len(ROWS)} of {len(ROWS)} training rows (100.0%)" in caplog.text
    assert "--data.max_length 8: cuts 2 of 2 validation rows (100.0%)" in caplog.text
    assert "test rows" not in caplog.text
    data.setup("test")
    assert "--data.max_length 8: cuts 3 of 3 test rows (100.0%)" in caplog.text
    data.predict_batch([Text("0", "a b", {"text": "a b"}), Text("1", "a " * 9, {"text": "a " * 9})])
    data.teardown("predict")
    assert "--data.max_length 8: cuts 1 of 2 texts to predict for" in caplog.text


def test_test_rows_that_are_in_validation_are_counted(tmp_path: Path):
    held_out = [write(tmp_path / f"{n}.jsonl", ROWS[:n]) for n in (3, 5)]
    data = set_up(tmp_path, ROWS[4:], validation=held_out[:1], test=held_out[1:])
    assert data.corpus.provenance["duplicates"] == {
        "within train": 0, "validation in train": 0, "test in train": 1, "test in validation": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b"}], {}, "jsonl:2: no label; the columns are text; name yours with"),
        ([{"body": "a", "label": "x"}], {}, "no column 'text'; the columns are body, label; name yours with"),
        ([{"text": "a", "label": "x"}], {"pair": True}, "no column 'pair'; the columns are text, label"),
        (
            [{"text": f"text {i}", "label": "x"} for i in range(9)],
            {},
            "--data.train: all 9 rows have the one label 'x'; a classifier needs two or more to tell apart; add rows, ",
        ),
        (
            [{"text": f"text {i}", "label": []} for i in range(9)],
            {},
            "--data.train: no row has a label; give rows with one or more, or name the right column with ",
        ),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": 0.5}], {}, "jsonl:2: the label 0.5 is no name"),
        (ROWS, {"max_length": 2}, "--data.max_length 2: no room beside 2 special tokens; give more"),
    ],
)
def test_rows_that_dont_fit_are_refused(tmp_path: Path, rows: list[Any], settings: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        set_up(tmp_path, rows, **settings)
    assert message in str(error.value)


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_rows_have_the_tokenizers_own_ids(algorithm: Any):
    pages = list(topics.values())
    tokenizer = plain(train_tokenizer(pages[:20], algorithm, 800, 64))
    nasty = [
        " ",
        "a  b\n\tc ",
        "E\u0301tude \u0301 \u00a8",
        "天下雨了。",
        "[SEP] </s> <mask>",
        "▁ a",
        "\x01",
        "\u3000a",
    ]
    rows = [{"text": text, "target": text[::-1], "label": text[0]} for text in [*pages[:30], *nasty]]

    def ids(tokenizer: Tokenizer, text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    labels = Labels()
    for row in rows:
        labels.take(row["label"], "")
    encoded = LabelledTexts(("text", "target"), labels).encoder(tokenizer)(rows)
    expected = [[ids(tokenizer, row["text"]), ids(tokenizer, row["target"])] for row in rows]
    assert [row.fields for row in encoded] == expected
    for prefix in ("", "shorten: ", "</s>", "[SEP] "):
        first = meaning_special(tokenizer, prefix)
        expected = [
            [ids(first, prefix + row["text"]), ids(first, row["target"])] if row["text"].strip() else [[], []]
            for row in rows
        ]
        assert [row.fields for row in Sides(("text", "target"), prefix, "").encoder(tokenizer)(rows)] == expected
