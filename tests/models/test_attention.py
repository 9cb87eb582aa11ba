"""Our attention gives what transformers' gives, with the same gradients."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_networks import with_larger_weights
from torch import Tensor, nn
from transformers import CONFIG_MAPPING
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ptm_lightning.models import attention as attention_module
from ptm_lightning.models.attention import ATTENTION, attention
from ptm_lightning.models.build import build_config, build_network
from ptm_lightning.models.dropout import draw_kept, dropped_share

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "mask": 4}
MASKED = ("albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "modernbert", "roberta")
NETWORKS = [
    *(("AutoModelForMaskedLM", name) for name in MASKED),
    *(("AutoModelForCausalLM", name) for name in ("gpt2", "llama", "qwen3")),
    *(("AutoModelForSeq2SeqLM", name) for name in ("t5", "mt5", "bart", "mbart", "marian", "m2m_100", "pegasus")),
]
ROWS, HEADS, LENGTH, KEYS, WIDTH = 3, 4, 5, 7, 8


def tiny(auto_class: str, architecture: str) -> Any:
    overrides: dict[str, Any] = {"num_key_value_heads": 1} if architecture in ("llama", "qwen3") else {}
    config = build_config(architecture, "tiny", overrides, vocab_size=50, max_length=12, special_ids=IDS)
    return with_larger_weights(build_network(auto_class, config, seed=3).eval())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("auto_class", "architecture"), NETWORKS)
def test_networks_compute_what_they_do_with_eager_attention(auto_class: str, architecture: str, padded: bool):
    network = tiny(auto_class, architecture)
    assert network.config._attn_implementation == ATTENTION
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    inputs: dict[str, Any] = {"input_ids": ids}
    if padded:
        ids[1, 6:] = IDS["pad"]
        inputs["attention_mask"] = (ids != IDS["pad"]).long()
    if network.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.roll(1, 1)[:, :7]
    found = {}
    for implementation in (ATTENTION, "eager"):
        other = copy.deepcopy(network)
        other.set_attn_implementation(implementation)
        real = other(**inputs, use_cache=False).logits if "Masked" not in auto_class else other(**inputs).logits
        loss = real[0].square().mean() + real[1, :6].square().mean()
        loss.backward()
        found[implementation] = (
            loss.detach(),
            {name: weight.grad for name, weight in other.named_parameters() if weight.grad is not None},
        )
    (loss, gradients), (expected_loss, expected) = found[ATTENTION], found["eager"]
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4 * scale + 1e-6, msg=name)


def factors(heads: int = HEADS, length: int = LENGTH, keys: int = KEYS) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, as views of (B, T, H * D), which is what networks give."""
    generator = torch.Generator().manual_seed(2)
    sizes = ((length, HEADS), (keys, heads), (keys, heads))
    drawn = [torch.randn(ROWS, long, count * WIDTH, generator=generator) for long, count in sizes]
    shaped = [
        each.view(ROWS, long, count, WIDTH).transpose(1, 2) for each, (long, count) in zip(drawn, sizes, strict=True)
    ]
    query, key, value = (each.requires_grad_() for each in shaped)
    return query, key, value


def layer(causal: bool = False, **values: Any) -> nn.Module:
    module: Any = nn.Module()
    module.is_causal = causal
    for name, value in values.items():
        setattr(module, name, value)
    return module


MASKS = {
    "none": None,
    "bool": torch.rand(ROWS, 1, LENGTH, KEYS, generator=torch.Generator().manual_seed(0)) < 0.7,
    "bool for all": torch.ones(LENGTH, KEYS, dtype=torch.bool).tril(2),
    "additive": torch.randn(ROWS, 1, LENGTH, KEYS, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_without_gradients_it_is_the_same(mask: str):
    with torch.inference_mode():
        output, _ = attention(layer(), *factors(), MASKS[mask])
    assert torch.equal(output, attention(layer(), *factors(), MASKS[mask])[0])


@pytest.mark.parametrize("scaling", [None, 1.0])
@pytest.mark.parametrize("bias", [None, (1, HEADS, LENGTH, KEYS), (ROWS, HEADS, LENGTH, KEYS)], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_masks_and_biases(mask: str, bias: tuple[int, ...] | None, scaling: float | None):
    results = []
    for function in (attention, sdpa_attention_forward):
        inputs = [*factors(), *([torch.ones(bias).requires_grad_()] if bias else [])]
        more = {"position_bias": inputs[3]} if bias else {}
        output, weights = function(layer(), *inputs[:3], MASKS[mask], scaling=scaling, **more)
        assert weights is None
        assert output.shape == (ROWS, LENGTH, HEADS, WIDTH)
        assert output.is_contiguous()
        results.append((output, torch.autograd.grad(output.sin().sum(), inputs)))
    (output, gradients), (expected_output, expected) = results
    torch.testing.assert_close(output, expected_output)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, LENGTH])
def test_causal_without_a_mask(length: int):
    inputs = factors(length=length, keys=length)
    (output, _), (expected, _) = (f(layer(True), *inputs, None) for f in (attention, sdpa_attention_forward))
    torch.testing.assert_close(output, expected)
    not_causal, _ = attention(layer(True), *inputs, None, is_causal=False)
    assert torch.equal(output, not_causal) == (length == 1)


def test_shared_keys():
    module = layer(num_key_value_groups=2)
    inputs = factors(heads=2)
    results = [f(module, *inputs, MASKS["bool"])[0] for f in (attention, sdpa_attention_forward)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.sin().sum(), inputs) for result in results]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_values_of_another_width():
    query, key, value = factors()
    value = value[..., :3].detach().requires_grad_()
    results = [f(layer(), query, key, value, None)[0] for f in (attention, sdpa_attention_forward)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.sin().sum(), (query, key, value)) for result in results]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("architecture", ["falcon", "xlnet"])
def test_an_architecture_that_finds_its_attention_otherwise_keeps_its_own(architecture: str):
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    config = CONFIG_MAPPING[architecture](
        vocab_size=50, **(sizes if architecture == "falcon" else {"d_model": 16, "n_head": 2})
    )
    network: Any = build_network("AutoModelForCausalLM", config, seed=0)
    assert network.config._attn_implementation == ("sdpa" if architecture == "falcon" else "eager")
    assert network(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_dropout_is_the_formula():
    query, key, value = inputs = factors()
    torch.manual_seed(4)
    output, _ = attention(layer(), *inputs, MASKS["additive"], dropout=0.3)
    torch.manual_seed(4)
    kept = draw_kept(torch.Size((ROWS * HEADS, LENGTH, KEYS)), 0.3).view(ROWS, HEADS, LENGTH, KEYS)
    chances = (query @ key.mT / WIDTH**0.5 + MASKS["additive"]).softmax(-1) * kept / (1 - dropped_share(0.3))
    expected = (chances @ value).transpose(1, 2)
    torch.testing.assert_close(output, expected)
    gradients = [torch.autograd.grad(result.sin().sum(), inputs) for result in (output, expected)]
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def test_half_precision_computes_in_single():
    inputs = [each.detach().bfloat16().requires_grad_() for each in factors()]
    exact = [each.detach().float().requires_grad_() for each in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = attention(layer(), *inputs, None)
    expected, _ = attention(layer(), *exact, None)
    assert torch.equal(output, expected.bfloat16())
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    for gradient, other in zip(gradients, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.float(), other, rtol=1e-2, atol=1e-2)


def test_double_precision_stays():
    inputs = [each.detach().double().requires_grad_() for each in factors()]
    output, _ = attention(layer(), *inputs, MASKS["bool"])
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, sdpa_attention_forward(layer(), *inputs, MASKS["bool"])[0])
    assert torch.autograd.gradcheck(lambda *each: attention(layer(), *each, MASKS["bool"])[0], inputs)


def test_a_query_that_may_look_nowhere_has_finite_gradients():
    inputs = factors()
    mask = torch.ones(ROWS, 1, LENGTH, KEYS, dtype=torch.bool)
    mask[1, :, 2] = False
    output, _ = attention(layer(), *inputs, mask)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), inputs))


@pytest.mark.parametrize(
    ("others", "evaluating", "theirs"),
    [
        ({}, False, False),
        ({}, True, False),
        ({"dropout": 1.0}, False, True),
        ({"dropout": 0.1, "beyond": "LONGEST"}, False, False),
        ({"beyond": "LONGEST"}, False, True),
        ({"beyond": "LONGEST_EVALUATED"}, False, False),
        ({"beyond": "LONGEST_EVALUATED"}, True, True),
        ({"cache": SimpleNamespace()}, False, True),
    ],
    ids=str,
)
def test_where_torchs_is_taken(others: dict[str, Any], evaluating: bool, theirs: bool, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def sdpa(*arguments: Any, **named: Any) -> tuple[Tensor, None]:
        asked.append(named)
        return arguments[1], None

    monkeypatch.setattr(attention_module, "sdpa_attention_forward", sdpa)
    if (limit := others.pop("beyond", None)) is not None:
        monkeypatch.setattr(attention_module, limit, KEYS - 1)
    with torch.set_grad_enabled(not evaluating):
        attention(layer(), *factors(), None, **others)
    assert bool(asked) == theirs
    assert all(named[name] == value for named in asked for name, value in others.items())
