"""LoRA, against peft's own wrapper: the same adapters, the same training, the same merged network."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from ptm_lightning.errors import UserError
from ptm_lightning.models.build import build_network
from ptm_lightning.models.config import build_config
from ptm_lightning.models.lora import Lora, add_adapters, is_adapted, is_adapter, merge_adapters, save_adapters
from ptm_lightning.testing_case import tiny

SETTINGS = Lora(rank=4, alpha=6.0, dropout=0.0, targets=None)
LAYERS = ["query", "key", "value", "dense"]
"""Linear layers of BERT's body, its pooler among them."""


def network(architecture: str = "bert", auto_class: str = "AutoModelForSequenceClassification") -> Any:
    config = build_config(
        architecture, "tiny", tiny(architecture), vocab_size=60, max_length=16, special_ids={"pad": 0, "eos": 1}
    )
    return build_network(auto_class, config, 0).eval()


def beside(name: str) -> bool:
    return name.startswith("classifier")


def logits(module: Any) -> Tensor:
    ids = torch.arange(2, 34).view(2, 16)
    return module(input_ids=ids).logits


def train(module: Any) -> None:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        torch.nn.functional.cross_entropy(logits(module), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_it_is_what_peft_does():
    ours = network()
    theirs = deepcopy(ours)
    before = logits(ours)
    add_adapters(ours, SETTINGS, beside, seed=5)
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, modules_to_save=["classifier"])
    theirs = peft.get_peft_model(theirs, config)
    assert torch.equal(logits(ours), before)
    for module in (ours, theirs):
        train(module)
    assert (logits(ours) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-6)
    merged = theirs.merge_and_unload()
    merge_adapters(ours)
    torch.testing.assert_close(logits(ours), logits(merged), rtol=0, atol=1e-6)
    assert type(ours) is type(network())
    assert ours.state_dict().keys() == network().state_dict().keys()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, msg=name)


def test_only_adapters_and_what_stands_beside_them_train():
    module = network()
    add_adapters(module, SETTINGS, beside, seed=0)
    trains = {name for name, p in module.named_parameters() if p.requires_grad}
    assert {name for name in trains if not is_adapter(name)} == {"classifier.weight", "classifier.bias"}
    assert sum(is_adapter(name) for name in trains) == 2 * 7
    add_adapters(module, SETTINGS, beside, seed=1)  # once is enough
    assert {name for name, p in module.named_parameters() if p.requires_grad} == trains


def test_the_seed_alone_decides_the_adapters():
    weights = []
    for seed, state in ((1, 0), (1, 9), (2, 0)):
        module = network()
        torch.manual_seed(state)
        add_adapters(module, SETTINGS, beside, seed=seed)
        assert torch.initial_seed() == state
        weights.append(torch.cat([p.flatten() for name, p in module.named_parameters() if is_adapter(name)]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["query"], {"attention.self.query"}),
        (["self.key", "intermediate.dense"], {"attention.self.key", "intermediate.dense"}),
    ],
)
def test_targets(targets: list[str], layers: set[str]):
    module = network()
    add_adapters(module, Lora(4, 8.0, 0.0, targets), beside, seed=0)
    adapted = {name.partition(".lora_")[0] for name, _ in module.named_parameters() if is_adapter(name)}
    assert adapted == {f"bert.encoder.layer.0.{name}" for name in layers}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("quary", "--model.lora_targets quary: no such linear layer; did you mean 'query'?"),
        ("classifier", "--model.lora_targets classifier: no such linear layer; known: dense, key, query, value"),
        ("uery", "--model.lora_targets uery: no such linear layer; did you mean 'query'?"),
    ],
)
def test_a_wrong_target_is_refused(target: str, message: str):
    with pytest.raises(UserError) as error:
        add_adapters(network(), Lora(4, 8.0, 0.0, ["key", target]), beside, seed=0)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("architecture", "auto_class"),
    [
        *(
            (name, "AutoModelForSequenceClassification")
            for name in ("roberta", "albert", "modernbert", "xlnet", "gpt2")
        ),
        *((name, "AutoModelForSeq2SeqLM") for name in ("bart", "t5", "marian")),
    ],
)
def test_merging_changes_no_logits(architecture: str, auto_class: str):
    module = network(architecture, auto_class)
    vocabulary = module.get_output_embeddings()
    add_adapters(module, SETTINGS, beside, seed=0)
    for name, parameter in module.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter.data, std=0.1)
    assert module.get_output_embeddings() is vocabulary
    ids = torch.arange(2, 18).view(2, 8)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if module.config.is_encoder_decoder else {})
    with torch.no_grad():
        adapted = module(**inputs).logits
        merge_adapters(module)
        torch.testing.assert_close(module(**inputs).logits, adapted, atol=1e-4, rtol=1e-4)
    assert not is_adapted(module)
    assert module.state_dict().keys() == network(architecture, auto_class).state_dict().keys()


def test_peft_loads_what_is_saved(tmp_path: Path):
    module = network()
    start = deepcopy(module)
    add_adapters(module, SETTINGS, beside, seed=0)
    train(module)
    save_adapters(module, SETTINGS, beside, "start", tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(start, tmp_path / "adapter").eval()
    assert loaded.peft_config["default"].base_model_name_or_path == "start"
    torch.testing.assert_close(logits(loaded), logits(module), rtol=0, atol=1e-6)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError) as error:
        add_adapters(network(), SETTINGS, beside, seed=0)
    assert str(error.value) == "--model.lora_rank: needs peft; pip install 'ptm_lightning[lora]'"
