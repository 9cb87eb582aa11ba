"""Attention within documents gives what the mask gives; the kernel is stood in for by a loop, for it needs CUDA."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from ptm_lightning.tasks import MaskedLMData
from tiny_networks import with_larger_weights
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from ptm_lightning.data.batch import Batch, in_parts
from ptm_lightning.data.sequences import Sequences, sequences_of, with_sequences
from ptm_lightning.models import attention as attention_module
from ptm_lightning.models import documents
from ptm_lightning.models.attention import ATTENTION, attention, lets_choose
from ptm_lightning.models.build import build_config, build_network
from ptm_lightning.models.documents import DocumentMask, has_kernel
from ptm_lightning.models.inputs import network_inputs
from ptm_lightning.models.masks import BIDIRECTIONAL, CAUSAL, document_mask
from ptm_lightning.models.rows import only_rows

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "mask": 4}
PACKED = torch.tensor([[1] * 5 + [2] * 11, [1] * 9 + [2] * 4 + [0] * 3, [1] * 16])
PADDED = torch.tensor([[1] * 16, [1] * 7 + [0] * 9, [1] * 12 + [0] * 4])
NETWORKS = sorted((BIDIRECTIONAL | CAUSAL) - {"megatron-bert"})  # its attention can't be chosen


def tiny(architecture: str, **overrides: Any) -> PreTrainedModel:
    if architecture == "modernbert":
        overrides |= {"local_attention": 6}  # a window of 3 to each side, which really cuts
    if architecture in ("llama", "qwen3"):
        overrides |= {"num_key_value_heads": 1}
    config = build_config(architecture, "tiny", overrides, vocab_size=50, max_length=16, special_ids=IDS)
    name = "AutoModelForCausalLM" if architecture in CAUSAL else "AutoModelForMaskedLM"
    return with_larger_weights(build_network(name, config, seed=5).eval())


def batch_of(document_ids: Tensor) -> Batch:
    ids = torch.randint(5, 50, document_ids.shape, generator=torch.Generator().manual_seed(2))
    positions = [[sum(row[:place] == row[place]) for place in range(len(row))] for row in document_ids.numpy()]
    return Batch(
        input_ids=ids.masked_fill(document_ids == 0, IDS["pad"]),
        document_ids=document_ids,
        position_ids=torch.tensor(positions) * (document_ids > 0),
        packed=bool((document_ids > 1).any()),
        padded=bool((document_ids == 0).any()),
    )


def loop(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """torch's `varlen_attn`, a sequence at a time."""
    assert cu_seq_q is cu_seq_k
    assert cu_seq_q.dtype == torch.int32
    assert (int(cu_seq_q[0]), int(cu_seq_q[-1])) == (0, len(query))
    lengths = cu_seq_q.diff().tolist()
    assert min(lengths) > 0
    assert max(lengths) == max_q == max_k
    left, right = window_size
    found = []
    for q, k, v in zip(*(each.split(lengths) for each in (query, key, value)), strict=True):
        distance = torch.arange(len(q))[:, None] - torch.arange(len(k))
        seen = ((distance <= left) | (left < 0)) & ((-distance <= right) | (right < 0))
        heads = (each.transpose(0, 1) for each in (q, k, v))
        found.append(scaled_dot_product_attention(*heads, seen, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The kernel's window in each of its calls, as if it were there."""
    windows = []

    def kernel(*arguments: Any, **named: Any) -> Tensor:
        windows.append(named["window_size"])
        return loop(*arguments, **named)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(attention_module, "has_kernel", lambda query, value: True)
    return windows


def outcome(network: PreTrainedModel, batch: Batch, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits at some places, and the gradients of their mean square."""
    network = copy.deepcopy(network)
    with only_rows(network, index):
        logits = network(**network_inputs(network, batch)).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("document_ids", [PACKED, PADDED], ids=["packed", "padded"])
@pytest.mark.parametrize("architecture", NETWORKS)
def test_it_equals_the_mask(architecture: str, document_ids: Tensor, calls: list[tuple[int, int]]):
    network, batch = tiny(architecture), batch_of(document_ids)
    index = (document_ids > 0).flatten().nonzero().flatten()[1::2]
    logits, gradients = outcome(network, batch, index)
    assert not calls
    by_documents, of_documents = outcome(network, with_sequences(batch), index)
    assert len(calls) == network.config.num_hidden_layers
    torch.testing.assert_close(by_documents, logits, rtol=1e-4, atol=1e-5)
    assert of_documents.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(of_documents[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


@pytest.mark.parametrize(
    ("architecture", "windows"), [("bert", {(-1, -1)}), ("modernbert", {(-1, -1), (3, 3)}), ("gpt2", {(-1, 0)})]
)
def test_windows(architecture: str, windows: set[tuple[int, int]], calls: list[tuple[int, int]]):
    network = tiny(architecture, **({"num_hidden_layers": 4} if architecture == "modernbert" else {}))
    network(**network_inputs(network, with_sequences(batch_of(PACKED))))
    assert set(calls) == windows


def test_layers_that_are_computed_again_find_the_documents(calls: list[tuple[int, int]]):
    network = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    index = torch.arange(9)
    plain = outcome(network, batch_of(PACKED), index)[1]
    network.activation_checkpointing_enable()
    again = outcome(network, with_sequences(batch_of(PACKED)), index)[1]
    assert len(calls) == 2 * network.config.num_hidden_layers
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_without_gradients(calls: list[tuple[int, int]]):
    network = tiny("bert")
    with torch.inference_mode():
        by_documents = network(**network_inputs(network, with_sequences(batch_of(PADDED)))).logits
        logits = network(**network_inputs(network, batch_of(PADDED))).logits
    assert calls
    torch.testing.assert_close(by_documents[PADDED > 0], logits[PADDED > 0], rtol=1e-4, atol=1e-5)


def test_on_cuda_a_batch_comes_with_its_sequences(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LightningDataModule, "transfer_batch_to_device", lambda self, batch, *_: batch)
    data = MaskedLMData(train=["builtin:python"])
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(compiled=False))  # type: ignore[assignment]
    for batch, there in (
        (batch_of(PACKED), True),
        ({**batch_of(PACKED), "rows": [{}, {}, {}]}, True),
        ("window", False),
    ):
        assert ("sequences" in data.transfer_batch_to_device(batch, torch.device("cuda"), 0)) == there
    assert "sequences" not in data.transfer_batch_to_device(batch_of(PACKED), torch.device("cpu"), 0)
    data.trainer.lightning_module.compiled = True  # type: ignore[union-attr]
    assert "sequences" not in data.transfer_batch_to_device(batch_of(PACKED), torch.device("cuda"), 0)


def test_with_dropout_the_mask_is_built_once(calls: list[tuple[int, int]]):
    network = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5).train()
    results = []
    for batch in (batch_of(PACKED), with_sequences(batch_of(PACKED))):
        torch.manual_seed(3)
        inputs = network_inputs(network, batch)
        results.append(network(**inputs).logits)
    torch.testing.assert_close(*results)
    assert not calls
    mask = inputs["attention_mask"]
    assert mask.built() is mask.built()


@pytest.mark.parametrize("others", [{"dropout": 0.1}, {"position_bias": torch.zeros(1, 1, 16, 16)}, {}], ids=str)
def test_where_the_kernel_is_taken(others: dict[str, Any], calls: list[tuple[int, int]]):
    module: Any = nn.Module()
    query, key, value = torch.randn(3, 3, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    mask = document_mask(SimpleNamespace(model_type="bert"), PACKED, sequences_of(PACKED))
    output, _ = attention(module, query, key, value, mask, **others)
    assert output.shape == (3, 16, 2, 8)
    assert bool(calls) == (not others)


def test_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch):
    def takes(width: int, of_value: int, dtype: torch.dtype) -> bool:
        return has_kernel(torch.zeros(1, 1, 2, width, dtype=dtype), torch.zeros(1, 1, 2, of_value, dtype=dtype))

    assert not takes(64, 64, torch.bfloat16)  # on a CPU
    monkeypatch.setattr(documents, "_runs_on", lambda device: True)
    assert takes(64, 64, torch.bfloat16)
    assert takes(192, 192, torch.float16)
    assert not takes(64, 64, torch.float32)
    assert not takes(64, 32, torch.bfloat16)
    assert not takes(20, 20, torch.bfloat16)
    assert not takes(200, 200, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert takes(64, 64, torch.float32)


def test_under_autocast_the_kernel_gets_half_precision(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.extend(each.dtype for each in (query, key, value))
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(documents, "_runs_on", lambda device: True)
    network = tiny("qwen3")  # whose queries and keys are normalised in single precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(**network_inputs(network, with_sequences(batch_of(PACKED))))
    assert set(seen) == {torch.bfloat16}


def test_sequences():
    cu_seqlens, longest = sequences_of(PACKED)
    assert cu_seqlens.tolist() == [0, 5, 16, 25, 29, 32, 48]
    assert cu_seqlens.dtype == torch.int32
    assert longest == 16
    assert sequences_of(torch.tensor([[1, 1], [1, 1]])).cu_seqlens.tolist() == [0, 2, 4]
    assert "sequences" not in with_sequences(batch_of(torch.ones(2, 4, dtype=torch.long)))
    assert "sequences" not in with_sequences({**batch_of(PADDED), "decoder_input_ids": PADDED})
    parts = list(in_parts(with_sequences(batch_of(PADDED)), 2))
    assert [(len(part["input_ids"]), "sequences" in part) for part in parts] == [(2, False), (1, False)]


def test_whatever_reads_the_mask_gets_it_built():
    allowed = torch.rand(1, 1, 4, 4) < 0.5
    mask = DocumentMask(torch.ones(1, 4), Sequences(torch.tensor([0, 4]), 4), (-1, -1), lambda: allowed)
    assert mask.shape == allowed.shape
    assert mask.dtype == torch.bool
    assert torch.equal(~mask, ~allowed)
    assert type(mask & mask) is Tensor
    scores = torch.zeros(1, 1, 4, 4)
    assert torch.equal(torch.where(mask, scores, -1.0), torch.where(allowed, scores, -1.0))


@pytest.mark.parametrize("architecture", ["deberta-v2", "megatron-bert"])
def test_other_networks_keep_their_mask(architecture: str):
    network = tiny(architecture)
    assert not (lets_choose(type(network)) and network.config._attn_implementation == ATTENTION)
    mask = network_inputs(network, with_sequences(batch_of(PADDED)))["attention_mask"]
    assert torch.equal(mask, (PADDED > 0).long())


def test_a_mean_over_the_places_reads_the_mask():
    network = tiny("modernbert", classifier_pooling="mean")
    mask = network_inputs(network, with_sequences(batch_of(PADDED)))["attention_mask"]
    assert torch.equal(mask, (PADDED > 0).long())
