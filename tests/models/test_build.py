import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from ptm_lightning.errors import UserError
from ptm_lightning.levers import switch_off
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import (
    build_config,
    build_network,
    check_fit,
    load_network,
    max_positions,
    network_from_config,
    position_offset,
    takes,
)
from ptm_lightning.models.dropout import Dropout

IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
MASKED = ["bert", "roberta", "albert", "distilbert", "electra", "modernbert", "deberta-v2"]
MLM = "AutoModelForMaskedLM"


def config(architecture: str = "bert", overrides: dict[str, Any] | None = None, **changes: Any) -> Any:
    arguments = {"vocab_size": 50, "max_length": 16, "special_ids": IDS} | changes
    return build_config(architecture, "tiny", overrides, **arguments)


def network(architecture: str = "bert", seed: int = 0, auto_class: str = MLM) -> PreTrainedModel:
    return build_network(auto_class, config(architecture), seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network(seed=7).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_vocabulary_and_special_ids_are_the_tokenizers() -> None:
    roberta = config("roberta")
    assert (roberta.vocab_size, roberta.pad_token_id, roberta.bos_token_id, roberta.eos_token_id) == (50, 0, 2, 3)
    modern = config("modernbert", special_ids=IDS | {"bos": 5, "eos": 6})
    assert (modern.bos_token_id, modern.eos_token_id, modern.cls_token_id, modern.sep_token_id) == (5, 6, 2, 3)
    assert (config("bert").bos_token_id, config("bert").eos_token_id) == (None, None)
    bart = config("bart")
    assert (bart.decoder_start_token_id, bart.forced_eos_token_id) == (3, 3)
    assert config("t5").decoder_start_token_id == 0


@pytest.mark.parametrize("architecture", [*MASKED, "gpt2", "llama", "t5", "bart", "xlnet"])
def test_no_special_id_points_outside_the_vocabulary(architecture: str) -> None:
    values = config(architecture).to_dict()
    assert all(value is None or value < 50 for name, value in values.items() if name.endswith("_token_id"))


def test_positions_begin_after_the_padding_id_in_roberta() -> None:
    roberta = config("roberta", special_ids=IDS | {"pad": 1, "unk": 0})
    assert position_offset(roberta) == 2
    assert roberta.max_position_embeddings == 18
    assert position_offset(config("bert")) == 0
    assert config("gpt2").n_positions == 16


@pytest.mark.parametrize("architecture", [*MASKED, "mpnet", "longformer", "ibert"])
def test_a_row_of_the_greatest_length_can_be_read(architecture: str) -> None:
    built = build_network(MLM, config(architecture, special_ids=IDS | {"pad": 1, "unk": 0}), 0).eval()
    assert built(input_ids=torch.full((1, 16), 7), attention_mask=torch.ones(1, 16)).logits.shape == (1, 16, 50)


def test_deberta_has_its_disentangled_attention() -> None:
    built = network("deberta-v2")
    assert built.deberta.encoder.relative_attention
    assert built.deberta.encoder.rel_embeddings.weight.shape == (512, 128)
    assert not built.deberta.embeddings.position_biased_input


def test_overrides_win_and_take_either_name() -> None:
    assert config("bert", {"num_hidden_layers": 3}).num_hidden_layers == 3
    assert config("distilbert", {"num_hidden_layers": 3}).n_layers == 3
    assert config("distilbert", {"hidden_dim": 96}).hidden_dim == 96
    assert config("deberta-v2", {"position_buckets": 32}).position_buckets == 32
    assert config("bert").hidden_dropout_prob == 0.1


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("brt", None, r"^--model.architecture brt: no such architecture, did you mean '\w+'\?$"),
        ("zzzzzzz", None, r"^--model.architecture zzzzzzz: no such architecture, known: albert, bart, bert, "),
        (
            "bert",
            {"num_hiden_layers": 3},
            r"^--model.overrides.num_hiden_layers: bert has no such field, did you mean 'num_hidden_layers'\?$",
        ),
        ("distilbert", {"intermediate_size": 3}, "^--model.overrides.intermediate_size: distilbert has no such field"),
        ("bert", {"num_hidden_layers": "three"}, "^--model.overrides for bert: .*num_hidden_layers"),
        ("perceiver", None, "^--model.size tiny: perceiver has other dimensions than BERT; .* d_latents, "),
    ],
)
def test_mistakes_in_the_config(architecture: str, overrides: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(architecture, overrides)


def test_mpnet_takes_id_1_for_padding_whatever_its_config_says() -> None:
    with pytest.raises(UserError, match="mpnet needs a tokenizer whose padding token has the id 1, not 0"):
        config("mpnet")


def test_dimensions_that_do_not_fit_each_other() -> None:
    with pytest.raises(UserError, match=r"--model.overrides for bert: .*attention heads"):
        build_network(MLM, config("bert", {"num_attention_heads": 3}), 0)


def test_an_architecture_without_this_head() -> None:
    with pytest.raises(UserError, match="transformers has no ModelForMaskedLM of gpt2; take bert, roberta, albert, "):
        build_network(MLM, config("gpt2"), 0)


@pytest.mark.parametrize("architecture", MASKED)
def test_weights_are_a_function_of_the_seed_and_leave_the_random_state_alone(architecture: str) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = network(architecture, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    second, third = network(architecture, seed=1), network(architecture, seed=2)
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(first.get_input_embeddings().weight, third.get_input_embeddings().weight)


def test_torchs_own_if_ours_are_off() -> None:
    switch_off(["attention", "dropout"])
    try:
        built = network("bert")
    finally:
        switch_off([])
    assert built.config._attn_implementation == "sdpa"
    assert not any(isinstance(module, Dropout) for module in built.modules())
    assert any(isinstance(module, Dropout) for module in network("bert").modules())


@pytest.mark.parametrize(
    ("architecture", "attention"), [("bert", ATTENTION), ("deberta-v2", "eager"), ("t5", ATTENTION)]
)
def test_attention_and_precision(architecture: str, attention: str) -> None:
    built = network(architecture, auto_class="AutoModel")
    assert built.config._attn_implementation == attention
    assert {weight.dtype for weight in built.parameters()} == {torch.float32}
    assert built.training


def test_pooling_layers_that_no_loss_reads_are_left_out() -> None:
    for auto_class in (MLM, "AutoModel"):
        assert not [name for name, _ in network(auto_class=auto_class).named_parameters() if "pooler" in name]
    pretraining = network(auto_class="AutoModelForPreTraining")
    assert [name for name, _ in pretraining.named_parameters() if "pooler" in name]


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


def test_a_tokenizer_that_does_not_fit() -> None:
    built = network()
    check_fit(built, 50, 16)
    with pytest.raises(
        UserError, match=r"^--data\.tokenizer: the tokenizer has 51 ids, but the model's embeddings only 50 rows; "
    ):
        check_fit(built, 51, 16)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "albert", "gpt2", "bart"])
def test_a_length_beyond_the_positions(architecture: str) -> None:
    built = network(architecture, auto_class="AutoModel")
    check_fit(built, 50, 16)
    with pytest.raises(UserError, match=r"^--data.max_length 17: the model has 16 positions; use at most 16$"):
        check_fit(built, 50, 17)


def test_roberta_with_514_positions_takes_512() -> None:
    published = config("roberta", {"max_position_embeddings": 514}, special_ids=IDS | {"pad": 1, "unk": 0})
    assert max_positions(build_network(MLM, published, 0)) == 512


@pytest.mark.parametrize("architecture", ["modernbert", "deberta-v2", "t5", "xlnet", "llama"])
def test_relative_positions_have_no_limit(architecture: str) -> None:
    check_fit(network(architecture, auto_class="AutoModel"), 50, 100_000)


def test_takes() -> None:
    assert takes(network("roberta"), "position_ids")
    assert not takes(network("t5", auto_class="AutoModel"), "position_ids")
