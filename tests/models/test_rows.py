import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ptm_lightning.cross_entropy import summed_cross_entropy
from ptm_lightning.levers import LEVERS, switch_off
from ptm_lightning.models import rows
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import build_config, build_network
from ptm_lightning.models.kernels import MAX_ERROR_RATIO, Matmul, measure, prepare_cpu
from ptm_lightning.models.rows import LAST_LAYERS, only_first_places, only_rows

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "mask": 4}
MASKED = ["albert", "distilbert", "modernbert", "deberta-v2", "fnet", "mpnet"]
NETWORKS = [
    *[("AutoModelForMaskedLM", name) for name in sorted(LAST_LAYERS.union(MASKED))],
    *[("AutoModelForCausalLM", name) for name in ("gpt2", "llama", "xlnet")],
    *[("AutoModelForSeq2SeqLM", name) for name in ("t5", "bart")],
]


def tiny(auto_class: str, architecture: str, **overrides: Any) -> nn.Module:
    config = build_config(architecture, "tiny", overrides, vocab_size=50, max_length=12, special_ids=IDS)
    return build_network(auto_class, config, seed=3).eval()


def batch(network: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Two rows of 9, the second with 3 of padding, and the labels of 5 targets."""
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    ids[1, 6:] = IDS["pad"]
    labels = torch.full_like(ids, -100)
    for row, place in ((0, 1), (0, 7), (0, 8), (1, 2), (1, 5)):
        labels[row, place] = ids[row, place]
    inputs = {"input_ids": ids, "attention_mask": (ids != IDS["pad"]).long()}
    if network.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.roll(1, 1)
    return inputs, labels


def gradients(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


EXACT: Matmul = "medium" if measure()["error_ratio"] <= MAX_ERROR_RATIO else "default"
"""On machines with matrix units "medium" is bfloat16."""


@contextmanager
def levers(on: bool) -> Iterator[None]:
    """All on; or torch's and transformers' own."""
    before = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        if not on:
            switch_off(LEVERS)
            patch.setattr(rows, "LAST_LAYERS", frozenset())
        try:
            prepare_cpu(EXACT)
            yield
        finally:
            switch_off(())
            torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(("auto_class", "architecture"), NETWORKS)
def test_loss_and_gradients_equal_those_of_transformers(auto_class: str, architecture: str, on: bool) -> None:
    with levers(on=False):
        network = tiny(auto_class, architecture)
        assert network.config._attn_implementation != ATTENTION
        inputs, labels = batch(network)
        dense_loss = network(**inputs, labels=labels).loss
        expected = gradients(network, dense_loss)

    shifted = architecture in ("gpt2", "llama")  # inside: the token before predicts
    targets = (labels.roll(-1, 1) if shifted else labels).flatten()
    index = (targets != -100).nonzero()[:, 0]
    with levers(on):
        network = tiny(auto_class, architecture)
        with only_rows(network, index):
            logits = network(**inputs).logits
        assert logits.shape == (1, 5, 50)
        loss = summed_cross_entropy(logits[0], targets[index]) / 5
        found = gradients(network, loss)

    assert loss.item() == pytest.approx(dense_loss.item(), rel=2e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-6, msg=name)


def test_levers_make_a_difference_that_can_be_seen() -> None:
    for on in (True, False):
        with levers(on):
            assert (tiny("AutoModelForMaskedLM", "bert").config._attn_implementation == ATTENTION) is on
            assert (torch.get_float32_matmul_precision() == "medium") is (on and EXACT == "medium")
            assert ("bert" in rows.LAST_LAYERS) is on


@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_the_pooled_head_of_pretraining_still_sees_all_rows(architecture: str) -> None:
    network = tiny("AutoModelForPreTraining", architecture)
    inputs, _ = batch(network)
    dense = network(**inputs)
    index = torch.tensor([1, 7, 11])
    with only_rows(network, index):
        output = network(**inputs)
    pooled = "seq_relationship_logits" if architecture == "bert" else "sop_logits"
    assert torch.equal(output[pooled], dense[pooled])
    torch.testing.assert_close(output.prediction_logits[0], dense.prediction_logits.flatten(0, 1)[index])


@pytest.mark.parametrize("architecture", sorted(LAST_LAYERS))
def test_the_last_layer_computes_the_asked_rows_only(architecture: str) -> None:
    network = tiny("AutoModelForMaskedLM", architecture)
    last = network.base_model.encoder.layer[-1]
    shapes = []
    last.intermediate.register_forward_hook(lambda _module, inputs, _output: shapes.append(inputs[0].shape[:2]))
    inputs, _ = batch(network)
    with only_rows(network, torch.tensor([1, 7, 11])):
        network(**inputs)
    network(**inputs)
    assert shapes == [(1, 3), (2, 9)]


@pytest.mark.parametrize("architecture", [*sorted(LAST_LAYERS), *MASKED])
def test_first_places_give_the_loss_and_gradients_of_all(architecture: str) -> None:
    network = tiny("AutoModelForSequenceClassification", architecture)
    inputs, _ = batch(network)
    labels = torch.tensor([1, 0])
    expected_loss = network(**inputs, labels=labels).loss
    expected = gradients(network, expected_loss)
    with only_first_places(network, inputs["input_ids"]):
        loss = cross_entropy(network(**inputs).logits, labels)
    found = gradients(network, loss)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=2e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-6, msg=name)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    network = tiny("AutoModelForMaskedLM", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs, _ = batch(network)
    found = []
    for again in (False, True):
        if again:
            network.gradient_checkpointing_enable()
        with only_rows(network, torch.tensor([1, 7, 11])):
            loss = network(**inputs).logits.square().mean()
        found.append(gradients(network, loss))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_a_tuple_as_output(architecture: str) -> None:
    network = tiny("AutoModelForMaskedLM", architecture)
    inputs, _ = batch(network)
    index = torch.tensor([0, 4])
    with only_rows(network, index):
        logits = network(**inputs, return_dict=False)[0]
    torch.testing.assert_close(logits[0], network(**inputs).logits.flatten(0, 1)[index])


def test_the_hook_is_gone_after_the_call_and_after_an_error() -> None:
    network = tiny("AutoModelForMaskedLM", "bert")
    inputs, _ = batch(network)
    with pytest.raises(IndexError), only_rows(network, torch.tensor([18])):
        network(**inputs)
    assert network(**inputs).logits.shape == (2, 9, 50)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_copies_made_before_and_inside_are_dense() -> None:
    network = tiny("AutoModelForMaskedLM", "roberta")
    inputs, _ = batch(network)
    before = copy.deepcopy(network)
    with only_rows(network, torch.tensor([0, 1])):
        inside = copy.deepcopy(network)
        assert before(**inputs).logits.shape == (2, 9, 50)
        assert inside(**inputs).logits.shape == (2, 9, 50)
        assert network(**inputs).logits.shape == (1, 2, 50)
    assert inside(**inputs).logits.shape == (2, 9, 50)


def test_a_network_that_was_not_called_is_a_mistake() -> None:
    with (
        pytest.raises(AssertionError, match="ran 0 times"),
        only_rows(tiny("AutoModelForMaskedLM", "bert"), torch.tensor([0])),
    ):
        pass
