"""Classification, against transformers' own loss and pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from classifying import LABELS, fitted
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import SequenceClassification, SequenceClassificationData
from row_files import write
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother

from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.testing_case import switch_dropout_off, tiny
from ptm_lightning.testing_texts import example

ARCHITECTURES = {
    "bert": "wordpiece",
    "roberta": "bpe",
    "albert": "unigram",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "xlnet": "xlnet",
    "deberta-v2": "wordpiece",
    "modernbert": "bpe",
}
"""And the tokenizer that goes with each."""


@pytest.mark.parametrize(
    ("architecture", "kind", "pair"),
    [
        *((architecture, "single", True) for architecture in ARCHITECTURES),
        *(("bert", kind, False) for kind in LABELS),
        *(("roberta", kind, True) for kind in ("several", "numbers")),
    ],
)
def test_loss_equals_transformers(tmp_path: Path, architecture: str, kind: str, pair: bool):
    algorithm = ARCHITECTURES[architecture]
    task, data = fitted(tmp_path, kind, {"architecture": architecture}, tokenizer_algorithm=algorithm, pair=pair)
    batch = next(iter(data.train_dataloader()))
    rows = list(data.corpus.train.rows(batch["examples"].tolist()))
    texts = [[row[name] for row in rows] for name in ("text", "pair")[: 1 + pair]]
    coded = data.hf_tokenizer(*texts, padding=True, truncation="longest_first", max_length=40, return_tensors="pt")
    network = task.network
    if architecture not in ("bert", "albert", "xlnet", "electra", "deberta-v2"):
        coded.pop("token_type_ids", None)
    expected = network(**coded, labels=batch["labels"])
    ours = task.terms(batch)["classification"]
    torch.testing.assert_close(ours.sum / ours.count, expected.loss, atol=1e-5, rtol=1e-5)
    assert network.config.problem_type == {
        "single": "single_label_classification", "several": "multi_label_classification", "numbers": "regression",
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_metrics_are_those_of_the_kind(tmp_path: Path, kind: str):
    task, _ = fitted(tmp_path, kind)
    metrics = set(task.trainer.callback_metrics)
    averages = {f"val/{name}_{of}" for name in ("precision", "recall", "f1") for of in ("macro", "micro", "weighted")}
    names = averages | {f"val/{name}" for name in ("loss", "accuracy", "mcc", "auroc", "calibration_error")}
    expected = {
        "single": names,
        "several": names,
        "numbers": {"val/loss", "val/mae", "val/pearson", "val/spearman"},
    }[kind]
    assert expected <= metrics
    assert ("val/f1_macro" in metrics) == (kind != "numbers")


def test_smoothing_and_weights_hold_in_training_only(tmp_path: Path):
    task, data = fitted(tmp_path, task={"label_smoothing": 0.2, "class_weights": "balanced"})
    batch = next(iter(data.train_dataloader()))
    logits = task.network(**task.inputs(batch)).logits
    counts = torch.tensor(list(data.corpus.provenance["labels"].values())).float()
    weight = counts.sum() / (len(counts) * counts)
    evaluated = task.terms(batch)["classification"].sum
    torch.testing.assert_close(evaluated, functional.cross_entropy(logits, batch["labels"], reduction="sum"))
    switch_dropout_off(task.train())
    trained = task.terms(batch)["classification"].sum
    expected = functional.cross_entropy(logits, batch["labels"], weight=weight, label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(trained, expected)


def test_smoothing_of_one_label_is_transformers_own(tmp_path: Path):
    task, data = fitted(tmp_path, task={"label_smoothing": 0.2})
    task.network.classifier.weight.data.mul_(50)
    batch = next(iter(data.train_dataloader()))
    switch_dropout_off(task.train())
    theirs = LabelSmoother(0.2)({"logits": task.network(**task.inputs(batch)).logits}, batch["labels"])
    ours = task.terms(batch)["classification"]
    torch.testing.assert_close(ours.sum / ours.count, theirs)


@pytest.mark.parametrize("arguments", [{"label_smoothing": 0.2}, {"class_weights": "balanced"}])
def test_smoothing_and_weights_of_several_labels(tmp_path: Path, arguments: dict[str, Any]):
    """Each label's target moves towards a half, as transformers' own loss has it of such targets, or weighs more."""
    task, data = fitted(tmp_path, "several", arguments)
    task.network.classifier.weight.data.mul_(50)  # else all labels are about as likely
    batch = next(iter(data.train_dataloader()))
    right, rows = batch["labels"], len(data.corpus.train)
    output = task.network(**task.inputs(batch), labels=right * 0.8 + 0.1)
    switch_dropout_off(task.train())
    ours = task.terms(batch)["classification"]
    expected = output.loss
    if "class_weights" in arguments:
        counts = torch.tensor([data.corpus.provenance["labels"][name] for name in task.link.labels]).float()
        weight = (rows - counts) / counts
        expected = functional.binary_cross_entropy_with_logits(output.logits, right, pos_weight=weight)
    torch.testing.assert_close(ours.sum / ours.count, expected)
    plain = task.eval().network(**task.inputs(batch), labels=right).loss
    evaluated = task.terms(batch)["classification"]
    torch.testing.assert_close(evaluated.sum / evaluated.count, plain)
    assert not torch.isclose(plain, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["single", "several"])
def test_weights_count_the_labels_of_the_training_split(tmp_path: Path, kind: str):
    task, data = fitted(tmp_path, kind, {"class_weights": "balanced"}, validation_share=0.4, test_share=0.1)
    rows = list(data.corpus.train.rows(range(len(data.corpus.train))))
    assert len(rows) < 50
    labels = [row["label"] if kind == "several" else [row["label"]] for row in rows]
    counts = {name: sum(name in mine for mine in labels) for name in data.link.labels}
    assert data.corpus.provenance["labels"] == counts
    if kind == "several":
        expected = [(len(rows) - count) / count for count in counts.values()]
        assert task._weights(torch.zeros(())).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("pair", [False, True])
def test_the_pipeline_gives_the_same_numbers(tmp_path: Path, pair: bool):
    saver = ModelCheckpoint(tmp_path / "saved")
    task, _ = fitted(tmp_path, "numbers", steps=10, callbacks=[saver], pair=pair)
    folder = export(Path(saver.best_model_path), tmp_path / "model", SequenceClassification, settings={})
    rows = [{"text": row["text"], "pair": row["pair"]} for row in map(example, range(900, 905))]
    pipe = transformers.pipeline("text-classification", model=str(folder))
    asked = [{"text": row["text"]} | ({"text_pair": row["pair"]} if pair else {}) for row in rows]
    theirs = [pipe(one, truncation=True) for one in asked]
    data = SequenceClassificationData(predict=[write(tmp_path / "asked.jsonl", rows)], pair=pair)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    ours = [row["prediction"] for rows in trainer.predict(task, data) for row in rows]
    found = [one["score"] if isinstance(one, dict) else one[0]["score"] for one in theirs]
    assert ours == pytest.approx(found, abs=1e-5)
    assert len({round(value, 6) for value in ours}) > 1


@pytest.mark.parametrize(("kind", "pair"), [("single", False), ("single", True), ("several", False), ("several", True)])
def test_the_pipeline_gives_the_same_scores(tmp_path: Path, kind: str, pair: bool):
    saver = ModelCheckpoint(tmp_path / "saved")  # after validation, where thresholds are found
    task, _ = fitted(tmp_path, kind, steps=10, callbacks=[saver], pair=pair)  # after one step all texts are alike
    folder = export(Path(saver.best_model_path), tmp_path / "model", SequenceClassification, settings={})
    rows = [{"text": row["text"], "pair": row["pair"]} for row in map(example, range(900, 905))]
    pipe = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    asked = [{"text": row["text"]} | ({"text_pair": row["pair"]} if pair else {}) for row in rows]
    theirs = [{one["label"]: one["score"] for one in pipe(row, truncation=True)} for row in asked]
    data = SequenceClassificationData(predict=[write(tmp_path / "asked.jsonl", rows)], pair=pair)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    ours = [row for rows in trainer.predict(task, data) for row in rows]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["scores"] == pytest.approx(other, abs=1e-6)
        assert list(mine["scores"].values()) == sorted(mine["scores"].values(), reverse=True)
        if kind == "single":
            assert mine["prediction"] == max(other, key=other.get)
        elif kind == "several":
            least = json.loads((folder / "config.json").read_text())["label_thresholds"]
            by_name = dict(zip(task.link.labels, least, strict=True))
            assert mine["prediction"] == [name for name in mine["scores"] if other[name] >= by_name[name]]


def test_a_checkpoint_refuses_labels_that_it_was_not_trained_for(tmp_path: Path):
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1)
    fitted(tmp_path, callbacks=[saver])
    task = SequenceClassification.load_from_checkpoint(saver.best_model_path, weights_only=True)
    strange = write(tmp_path / "strange.jsonl", [example(i) | {"label": "cow"} for i in range(20)])
    data = SequenceClassificationData(train=[strange])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match="the label 'cow' doesn't occur in training"):
        trainer.validate(task, data)


def test_what_training_made_of_its_rows_serves_its_model_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, module = fitted(tmp_path, cache_dir=str(tmp_path / "cache"))
    store, names = module.corpus.train, module.link.labels

    def for_model(labels: list[str]) -> np.ndarray:
        monkeypatch.setattr(module, "model_labels", lambda: (labels, []))
        return module.open_corpus().train.columns["label"]

    assert (for_model(names) == store.columns["label"]).all()
    assert sum(path.is_dir() for path in (tmp_path / "cache" / "examples").iterdir()) == 1
    assert (for_model(names[::-1]) == len(names) - 1 - store.columns["label"]).all()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("numbers", {"label_smoothing": 0.1}, "--model.label_smoothing: the labels are numbers, not names"),
        ("numbers", {"class_weights": "balanced"}, "--model.class_weights: the labels are numbers, not names"),
        ("single", {"label_smoothing": 1.0}, "--model.label_smoothing 1.0: give a share below 1"),
        ("single", {"layer_decay": 0.0}, "--model.layer_decay 0.0: give a factor above 0 and at most 1"),
        ("single", {"frozen_layers": 9}, "--model.frozen_layers 9: the network has 1 layers; -1 is all"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, kind: str, arguments: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        fitted(tmp_path, kind, {"overrides": tiny("bert"), **arguments})
    assert message in str(error.value)


def test_texts_to_predict_for_share_one_copy_of_the_tokenizer():
    data = SequenceClassificationData()
    data.hf_tokenizer = train_tokenizer(["a few words of text"], "bpe", 300, 16)
    first = data.coder
    assert data.coder is first
    assert first.encode("<mask>", add_special_tokens=False).ids != [data.hf_tokenizer.mask_token_id]
    data.hf_tokenizer = train_tokenizer(["other words of text"], "bpe", 300, 16)
    assert data.coder is not first
