"""Compiled layers compute what they did, under the same names; a fast backend stands in for the one that is used."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import MaskedLM, MaskedLMData
from tiny_networks import MLM, config
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from ptm_lightning.errors import UserError
from ptm_lightning.generate import _evaluating
from ptm_lightning.models import compiled
from ptm_lightning.models.build import build_network, takes
from ptm_lightning.models.compiled import compilable_layers, compile_layers
from ptm_lightning.models.lora import Lora, add_adapters, merge_adapters
from ptm_lightning.models.rows import only_rows

CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
NO_DROPOUT: dict[str, dict[str, Any]] = {
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "t5": {"dropout_rate": 0.0, "num_layers": 1, "num_decoder_layers": 1},
}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def network(architecture: str, auto_class: str) -> PreTrainedModel:
    return build_network(auto_class, config(architecture, NO_DROPOUT[architecture]), seed=0).train()


def outcome(network: PreTrainedModel, shapes: list[tuple[int, int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Logits at some places of rows of some shapes, with padding, and the gradients of all."""
    logits = []
    for shape in shapes:
        ids = torch.randint(5, 50, shape, generator=torch.Generator().manual_seed(1))
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": (torch.arange(shape[1]) < shape[1] - 2).expand(shape),
        }
        if takes(network, "use_cache"):
            inputs["use_cache"] = False
        if network.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids[:, :5]
        with only_rows(network, torch.arange(1, 2 * shape[0])):
            logits.append(network(**inputs).logits)
    torch.stack([each.square().mean() for each in logits]).sum().backward()
    return logits, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_same(
    found: tuple[list[Tensor], dict[str, Tensor]], expected: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


def compiled_modules(module: nn.Module) -> int:
    return sum(each._compiled_call_impl is not None for each in module.modules())


@pytest.mark.parametrize(
    ("architecture", "auto_class", "layers", "graphs"),
    [("bert", MLM, 1, 1), ("gpt2", CAUSAL, 2, 1), ("t5", SEQ2SEQ, 2, 2)],
)
def test_it_computes_the_same(architecture: str, auto_class: str, layers: int, graphs: int):
    plain = network(architecture, auto_class)
    changed = copy.deepcopy(plain)
    compile_layers(changed, ragged=False)
    assert compiled_modules(changed) == layers
    assert_same(outcome(changed, [(2, 9)]), outcome(plain, [(2, 9)]))
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.mark.parametrize(("ragged", "graphs"), [(True, 1), (False, 2)])
def test_widths(ragged: bool, graphs: int):
    plain = network("bert", MLM)
    changed = copy.deepcopy(plain)
    compile_layers(changed, ragged=ragged)
    shapes = [(2, 9), (3, 12), (4, 7)]
    assert_same(outcome(changed, shapes), outcome(plain, shapes))
    assert counters["stats"]["unique_graphs"] == graphs


def test_layers_that_are_computed_again():
    plain = network("gpt2", CAUSAL)
    changed = copy.deepcopy(plain)
    changed.activation_checkpointing_enable()
    compile_layers(changed, ragged=False)
    assert_same(outcome(changed, [(2, 9)]), outcome(plain, [(2, 9)]))
    assert counters["stats"]["unique_graphs"] > 0


def test_generation_compiles_nothing():
    changed = network("gpt2", CAUSAL)
    compile_layers(changed, ragged=False)
    with _evaluating(changed):
        changed.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3)
    assert not counters["stats"]
    outcome(changed, [(2, 9)])
    assert counters["stats"]


def test_names_and_copies():
    plain = network("gpt2", CAUSAL)
    names = list(plain.state_dict())
    compile_layers(plain, ragged=False)
    assert list(plain.state_dict()) == names
    outcome(plain, [(2, 9)])
    assert compiled_modules(plain) == 2
    assert compiled_modules(copy.deepcopy(plain)) == 0
    assert compiled_modules(pickle.loads(pickle.dumps(plain))) == 0


def test_adapters():
    pytest.importorskip("peft")
    plain = network("bert", MLM)
    add_adapters(plain, Lora(rank=2, alpha=4.0, dropout=0.0, targets=None), lambda name: name.startswith("cls"), seed=0)
    changed = copy.deepcopy(plain)
    compile_layers(changed, ragged=True)
    assert_same(outcome(changed, [(2, 9)]), outcome(plain, [(2, 9)]))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for each in (plain, changed):
        merge_adapters(each)
    assert_same(outcome(changed, [(2, 9)]), outcome(plain, [(2, 9)]))


def test_a_network_without_such_layers_is_refused():
    albert = build_network(MLM, config("albert"), seed=0)
    assert compilable_layers(albert) == []
    with pytest.raises(UserError, match=r"--model\.compiled: no layer of this albert can be compiled; leave it out"):
        compile_layers(albert, ragged=False)
    bert = build_network(MLM, config("bert", {"num_hidden_layers": 1}), seed=0)
    with pytest.raises(UserError, match="no layer of this bert can be compiled"):
        compile_layers(bert, ragged=True)


def fit(corpus: Path, folder: Path, steps: int, resume: Path | None = None, **arguments: Any) -> tuple[MaskedLM, Path]:
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    task = MaskedLM(overrides=small | NO_DROPOUT["bert"], schedule="constant", warmup=0.0, **arguments)
    data = MaskedLMData(
        train=[str(corpus)], vocab_size=300, max_length=16, batch_tokens=64, validation_share=0.1, cache_dir=str(folder)
    )
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=2,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder / f"{arguments}{steps}")],
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    return task, Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]


def test_runs_and_checkpoints(corpus: Path, tmp_path: Path):
    ways = (False, True)
    halves = {way: fit(corpus, tmp_path, 2, compiled=way, ema=0.5) for way in ways}
    assert [compiled_modules(halves[way][0]) for way in ways] == [0, 2]
    weights = {way: halves[way][0].state_dict() for way in ways}
    torch.testing.assert_close(weights[True], weights[False], rtol=1e-3, atol=1e-5)
    loaded = MaskedLM.load_from_checkpoint(halves[True][1], weights_only=True)
    assert compiled_modules(loaded) == 0
    torch.testing.assert_close(loaded.state_dict(), weights[True])
    whole = fit(corpus, tmp_path, 4, compiled=False, ema=0.5)[0].state_dict()
    for way in ways:
        resumed, _ = fit(corpus, tmp_path, 4, resume=halves[not way][1], compiled=way, ema=0.5)
        torch.testing.assert_close(resumed.state_dict(), whole, rtol=1e-3, atol=1e-5)
