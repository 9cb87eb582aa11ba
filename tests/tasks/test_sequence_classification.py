"""Classification, against transformers' own loss and pipeline; fine-tuning's rates and frozen layers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import SequenceClassification, SequenceClassificationData
from transformers import GPT2Config, GPT2LMHeadModel

from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.finetuning import depth, number_of_layers
from ptm_lightning.models.build import build_network
from ptm_lightning.models.config import build_config
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

LABELS = {"single": "bear", "several": ["a", "b"], "numbers": 0.5}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def label(kind: str, number: int) -> Any:
    if kind == "several":
        return [name for i, name in enumerate("abc") if number >> i & 1]
    return example(number)["label"] if kind == "single" else number % 7 / 3


def fitted(
    tmp_path: Path,
    kind: str = "single",
    task: dict[str, Any] | None = None,
    *,
    steps: int = 1,
    callbacks: Any = (),
    **data: Any,
) -> tuple[SequenceClassification, SequenceClassificationData]:
    source = write(tmp_path / f"{kind}.jsonl", [example(i) | {"label": label(kind, i)} for i in range(80)])
    architecture = (task or {}).get("architecture", "bert")
    module = SequenceClassificationData(**({"train": [source], "vocab_size": 300, "max_length": 40} | data))
    model = SequenceClassification(**({"overrides": tiny(architecture)} | (task or {})))
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model.eval(), module


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
    ("architecture", "kind"),
    [*((architecture, "single") for architecture in ARCHITECTURES), ("bert", "several"), ("roberta", "numbers")],
)
def test_loss_equals_transformers(tmp_path: Path, architecture: str, kind: str):
    algorithm = ARCHITECTURES[architecture]
    task, data = fitted(tmp_path, kind, {"architecture": architecture}, tokenizer_algorithm=algorithm, pair=True)
    batch = next(iter(data.train_dataloader()))
    rows = list(data.corpus.train.rows(batch["examples"].tolist()))
    coded = data.hf_tokenizer(
        [row["text"] for row in rows], [row["pair"] for row in rows], padding=True, truncation="longest_first",
        max_length=40, return_tensors="pt",
    )  # fmt: skip
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
    common = {"val/loss", "val/f1_macro", "val/f1_micro", "val/f1_weighted", "val/accuracy", "val/auroc"}
    expected = {
        "single": common | {"val/mcc", "val/calibration_error"},
        "several": common,
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
    torch.testing.assert_close(evaluated, torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum"))
    task.train()
    task.network.eval()
    trained = task.terms(batch)["classification"].sum
    expected = torch.nn.functional.cross_entropy(
        logits, batch["labels"], weight=weight, label_smoothing=0.2, reduction="sum"
    )
    torch.testing.assert_close(trained, expected)


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


@pytest.mark.parametrize("kind", ["single", "several"])
def test_the_pipeline_gives_the_same_scores(tmp_path: Path, kind: str):
    saver = ModelCheckpoint(tmp_path / "saved")  # after validation, where thresholds are found
    task, data = fitted(tmp_path, kind, steps=10, callbacks=[saver])  # after one step all texts are alike
    folder = export(Path(saver.best_model_path), tmp_path / "model", SequenceClassification, settings={})
    texts = [example(i)["text"] for i in range(900, 905)]
    pipe = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    theirs = [{one["label"]: one["score"] for one in row} for row in pipe(texts, truncation=True)]
    data = SequenceClassificationData(text=texts)
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


class TestBackbone:
    """A network that was trained for some labels is started from."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1)
        fitted(tmp_path, callbacks=[saver])
        return export(Path(saver.best_model_path), tmp_path / "model", SequenceClassification, settings={})

    def test_the_same_labels_keep_the_head_and_its_order(self, folder: Path, tmp_path: Path):
        config = json.loads((folder / "config.json").read_text())
        names = list(reversed([config["id2label"][str(i)] for i in range(len(config["id2label"]))]))
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        (folder / "config.json").write_text(json.dumps(config))
        task, _ = fitted(tmp_path, task={"backbone": str(folder), "learning_rate": 1e-9, "overrides": None})
        assert task.link.labels == names
        saved = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        torch.testing.assert_close(task.network.classifier.weight, saved.classifier.weight, atol=1e-6, rtol=0)

    def test_other_labels_get_a_new_head(self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        saved = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        names = {name: f"{name}s" for name in saved.config.label2id}
        rows = [example(i) | {"label": names[example(i)["label"]]} for i in range(80)]
        source = write(tmp_path / "renamed.jsonl", rows)
        arguments = {"backbone": str(folder), "learning_rate": 1e-9, "overrides": None}
        task, _ = fitted(tmp_path, task=arguments, train=[source])
        assert "has a head for other labels" in caplog.text
        assert set(task.link.labels) == set(names.values())
        body, weights = saved.bert.state_dict(), task.network.bert.state_dict()
        torch.testing.assert_close(
            body["embeddings.word_embeddings.weight"], weights["embeddings.word_embeddings.weight"]
        )
        assert (task.network.classifier.weight - saved.classifier.weight).abs().max() > 1e-3


def test_a_causal_network_without_padding_classifies_by_the_last_token(tmp_path: Path):
    tokenizer = train_tokenizer(
        [example(i)["text"] for i in range(80)], algorithm="gpt2", vocab_size=300, max_length=40
    )
    tokenizer.pad_token = None
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=16, n_head=2, eos_token_id=tokenizer.eos_token_id)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    task, data = fitted(tmp_path, task={"backbone": str(tmp_path / "gpt2"), "overrides": None}, vocab_size=8192)
    assert data.hf_tokenizer.pad_token == tokenizer.eos_token
    batch = next(iter(data.val_dataloader()))
    assert batch["padded"]
    with torch.no_grad():
        logits = task._logits(batch)
        for row, real in enumerate(batch["document_ids"] > 0):
            alone = task.network(input_ids=batch["input_ids"][row, real][None]).logits[0]
            torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LABELS)
def test_a_head_is_evaluated_on_rows_alone(tmp_path: Path, kind: str):
    """As its run is."""
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1)
    fitted(tmp_path, kind, callbacks=[saver])
    folder = export(Path(saver.best_model_path), tmp_path / "model", SequenceClassification, settings={})
    source = write(tmp_path / "test.jsonl", [example(i) | {"label": label(kind, i)} for i in range(90, 99)])
    trained = SequenceClassification.load_from_checkpoint(saver.best_model_path, weights_only=True)
    scores = []
    for task, sources in (trained, [str(tmp_path / f"{kind}.jsonl")]), (SequenceClassification(backbone=folder), None):
        data = SequenceClassificationData(**({"train": sources} if sources else {}), test=[source], max_length=40)
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        scores += trainer.test(task, data, verbose=False)
    ours, theirs = ({name: x for name, x in one.items() if not name.endswith("majority")} for one in scores)
    assert theirs == pytest.approx(ours, rel=1e-4)  # a correlation of predictions that hardly differ
    strange = write(tmp_path / "strange.jsonl", [example(i) | {"label": "cow"} for i in range(9)])
    with pytest.raises(UserError, match=r"--data\.test: .*strange\.jsonl:1: the label 'cow' .*"):
        trainer.test(SequenceClassification(backbone=folder), SequenceClassificationData(test=[strange]))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "modernbert", "xlnet", "albert"])
def test_layers_of_every_architecture(architecture: str):
    config = build_config(
        architecture, "tiny", tiny(architecture), vocab_size=60, max_length=16, special_ids={"pad": 0}
    )
    network = build_network("AutoModelForSequenceClassification", config, 0)
    layers = number_of_layers(network)
    depths = {name: depth(network, name, layers) for name, _ in network.named_parameters()}
    assert layers == (0 if architecture == "albert" else 1)
    assert {depths[name] for name in depths if "embeddings" in name.split(".")} <= {0}
    assert depths[next(name for name in depths if "classifier" in name or "logits_proj" in name)] == layers + 1


def test_rates_by_layer_and_the_heads_own(tmp_path: Path):
    arguments = {
        "layer_decay": 0.5,
        "head_learning_rate": 1.0,
        "learning_rate": 0.08,
        "overrides": tiny("bert") | {"num_hidden_layers": 2},
    }
    task, _ = fitted(tmp_path, task=arguments)
    rates = {id(p): group["lr"] for group in task.build_optimizer().param_groups for p in group["params"]}
    by_name = {name: rates[id(p)] for name, p in task.network.named_parameters()}
    assert by_name["classifier.weight"] == 1.0
    assert by_name["bert.pooler.dense.weight"] == 0.08
    assert by_name["bert.encoder.layer.1.output.dense.weight"] == 0.04
    assert by_name["bert.encoder.layer.0.output.dense.bias"] == 0.02
    assert by_name["bert.embeddings.word_embeddings.weight"] == 0.01


@pytest.mark.parametrize("frozen", [1, -1])
def test_frozen_layers_stay(tmp_path: Path, frozen: int):
    overrides = tiny("bert") | {"num_hidden_layers": 2}
    task, _ = fitted(tmp_path, task={"frozen_layers": frozen, "overrides": overrides, "learning_rate": 0.1})
    start = SequenceClassification(overrides=overrides)
    start.link = task.link
    fresh = build_network(task.auto_class, task.network.config, 0).state_dict()
    changed = {name for name, value in task.network.state_dict().items() if not value.equal(fresh[name])}
    assert any(name.startswith("classifier") for name in changed)
    assert any(name.startswith("bert.encoder.layer.1") for name in changed) == (frozen == 1)
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name in changed)


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
