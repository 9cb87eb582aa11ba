"""Classification from networks that are there before, with their labels or others; rates by layer and frozen layers."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from classifying import LABELS, fitted, label
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import SequenceClassification, SequenceClassificationData
from row_files import write
from transformers import GPT2Config, GPT2LMHeadModel

from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.finetuning import depth, number_of_layers
from ptm_lightning.models.build import build_network
from ptm_lightning.models.config import build_config
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example


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
