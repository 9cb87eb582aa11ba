"""Networks from a checkpoint's config and from folders: their own weights, no code, no pickles."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import MASKED, MLM, config, network
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from ptm_lightning.errors import UserError
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import (
    load_network,
    network_from_config,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network(seed=7).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", [*MASKED, "t5"])
def test_a_checkpoint_is_loaded_into_a_network_from_its_config(architecture: str) -> None:
    auto_class = "AutoModelForSeq2SeqLM" if architecture == "t5" else MLM
    built = network(architecture, auto_class=auto_class).eval()
    plain = json.loads(json.dumps(built.config.to_dict()))  # what a checkpoint carries
    state = torch.get_rng_state()
    empty = network_from_config(auto_class, plain).eval()
    assert torch.equal(torch.get_rng_state(), state)
    empty.load_state_dict(built.state_dict())
    assert len(list(empty.parameters())) == len(list(built.parameters()))  # tied as before
    ids = torch.arange(5, 15)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if architecture == "t5" else {})
    assert torch.equal(empty(**inputs).logits, built(**inputs).logits)
    assert empty.config.to_dict() == built.config.to_dict()


def test_keys_of_a_config_that_name_code_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    values = config().to_dict() | {"auto_map": {MLM: "evil.Model"}, "_attn_implementation_internal": "evil/kernel"}
    built = network_from_config(MLM, values)
    assert not hasattr(built.config, "auto_map")
    assert built.config._attn_implementation == ATTENTION
    assert "auto_map, _attn_implementation_internal" in caplog.text


def test_a_checkpoint_of_an_unknown_architecture() -> None:
    with pytest.raises(UserError, match=r"the checkpoint's network is a future-bert: transformers .* has none"):
        network_from_config(MLM, {"model_type": "future-bert"})


def test_loading_gives_the_folders_weights_in_float32(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    original = AutoModelForMaskedLM.from_pretrained(folder)
    original.to(torch.bfloat16).save_pretrained(folder)
    capfd.readouterr()
    loaded = load_network(MLM, str(folder))
    assert capfd.readouterr().err == ""
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert loaded.training
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, original.state_dict()[name].float()), name


def test_new_weights_are_named_and_seeded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = "AutoModelForSequenceClassification"
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first, second = load_network(task, str(folder), seed=4), load_network(task, str(folder), seed=4)
    third = load_network(task, str(folder), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert "has no weights for bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias" in caplog.text
    assert isinstance(first, AutoModelForSequenceClassification._model_mapping[type(first.config)])
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, third.classifier.weight)


def test_new_weights_that_are_not_to_be_trained_are_refused(folder: Path) -> None:
    load_network(MLM, str(folder), trains=False)
    message = f"--model.backbone {folder} has no weights for .*classifier.*; train them by fit, or name a model that"
    with pytest.raises(UserError, match=message):
        load_network("AutoModelForSequenceClassification", str(folder), trains=False)


def test_pickled_weights_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (folder / "model.safetensors").unlink()
    torch.save({"bert": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"weights are pickle.*convert it once.*save_pretrained\(FOLDER\)"):
        load_network(MLM, str(folder))
    assert not (tmp_path / "ran").exists()


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = json.loads((folder / "config.json").read_text())
    values |= {"auto_map": {MLM: "evil.Evil"}, "_attn_implementation_internal": "evil/kernel"}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    loaded = load_network(MLM, str(folder))
    assert not (tmp_path / "ran").exists()
    assert loaded.config._attn_implementation == ATTENTION
    assert "auto_map" in caplog.text


def test_folders_that_cannot_be_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(name: str) -> str:
        with pytest.raises(UserError) as caught:
            load_network(MLM, name)
        return str(caught.value)

    missing = str(tmp_path / "missing")
    assert message(missing) == f"--model.backbone {missing}: no such folder"
    assert message(str(tmp_path)) == f"--model.backbone {tmp_path}: the folder has no config.json"
    file = folder / "config.json"
    assert message(str(file)) == f"--model.backbone {file}: is a file; give the folder that holds config.json"

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert message(str(folder)).startswith(f"--model.backbone {folder}: can't be loaded as {MLM}: ")
    (folder / "model.safetensors").unlink()
    assert message(str(folder)) == f"--model.backbone {folder}: the folder has no *.safetensors weights"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert message("nobody/nothing").startswith("--model.backbone nobody/nothing: no such folder, and no such model")


def test_weights_of_another_shape_than_the_config_says(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 96}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"can't be loaded as {MLM}"):
        load_network(MLM, str(folder))
