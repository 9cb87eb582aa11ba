import pytest
import torch
from torch import Tensor, nn

from ptm_lightning.errors import UserError
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import build_config, build_network, position_offset, takes
from ptm_lightning.models.masks import BIDIRECTIONAL, CAUSAL, attention_mask, isolates

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "mask": 4}
DOCUMENTS = torch.tensor([[1] * 5 + [2] * 11, [1] * 9 + [2] * 4 + [0] * 3])
POSITIONS = torch.tensor([[*range(5), *range(11)], [*range(9), *range(4), 0, 0, 0]])


def tiny(architecture: str) -> nn.Module:
    # a window of 3 to each side, so that ModernBERT's local layers really cut
    overrides = {"local_attention": 6} if architecture == "modernbert" else None
    config = build_config(architecture, "tiny", overrides, vocab_size=50, max_length=16, special_ids=IDS)
    causal = architecture in CAUSAL
    network = build_network("AutoModelForCausalLM" if causal else "AutoModelForMaskedLM", config, seed=5).eval()
    with torch.no_grad():
        for weight in network.parameters():  # at their initial scale, attention hardly tells tokens apart
            if weight.dim() == 2:
                weight.mul_(4)
    return network


def ids() -> Tensor:
    tokens = torch.randint(5, 50, DOCUMENTS.shape, generator=torch.Generator().manual_seed(2))
    return tokens.masked_fill(DOCUMENTS == 0, IDS["pad"])


def packed_logits(network: nn.Module, tokens: Tensor) -> Tensor:
    mask = attention_mask(network.config, DOCUMENTS, torch.float32, packed=True, padded=True)
    options = {"use_cache": False} if network.config.model_type in CAUSAL else {}
    positions = POSITIONS + position_offset(network.config)
    return network(input_ids=tokens, attention_mask=mask, position_ids=positions, **options).logits


@pytest.mark.parametrize("implementation", [ATTENTION, "sdpa", "eager"])
@pytest.mark.parametrize("architecture", sorted(BIDIRECTIONAL | CAUSAL))
def test_packed_documents_equal_documents_alone(architecture: str, implementation: str) -> None:
    network = tiny(architecture)
    assert takes(network, "position_ids")
    assert isolates(network.config)
    if implementation != "eager" and network.config._attn_implementation == "eager":
        pytest.skip("has eager attention only")
    network.set_attn_implementation(implementation)
    tokens = ids()
    packed = packed_logits(network, tokens)
    assert packed.isfinite().all()
    for row, document in ((0, 1), (0, 2), (1, 1), (1, 2)):
        here = DOCUMENTS[row] == document
        alone = network(input_ids=tokens[row, here][None]).logits[0]
        torch.testing.assert_close(packed[row, here], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(BIDIRECTIONAL | CAUSAL))
def test_a_changed_document_leaves_the_others_alone(architecture: str) -> None:
    network = tiny(architecture)
    tokens = ids()
    changed = torch.where(DOCUMENTS == 1, (tokens + 7) % 45 + 5, tokens)
    first, second = packed_logits(network, tokens), packed_logits(network, changed)
    other = DOCUMENTS == 2
    torch.testing.assert_close(first[other], second[other], rtol=0, atol=0)
    assert (first[DOCUMENTS == 1] - second[DOCUMENTS == 1]).abs().max() > 1e-2


@torch.no_grad()
def test_without_the_mask_documents_do_leak() -> None:
    """The tests above can fail: the same network without a mask."""
    network = tiny("bert")
    tokens = ids()
    leaky = network(input_ids=tokens, position_ids=POSITIONS).logits
    assert (leaky - packed_logits(network, tokens))[DOCUMENTS > 0].abs().max() > 1e-2


def test_padding_gives_no_nan_gradients() -> None:
    network = tiny("bert").train()
    packed_logits(network, ids())[DOCUMENTS > 0].sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters())


def test_rows_of_one_document() -> None:
    config = tiny("bert").config
    assert attention_mask(config, DOCUMENTS, torch.float32, packed=False, padded=False) is None
    mask = attention_mask(config, DOCUMENTS, torch.float32, packed=False, padded=True)
    assert torch.equal(mask, torch.tensor([[1] * 16, [1] * 13 + [0] * 3]))


def test_half_precision_keeps_the_minimum_finite() -> None:
    mask = attention_mask(tiny("bert").config, DOCUMENTS, torch.bfloat16, packed=True, padded=True)
    assert mask.dtype == torch.bfloat16
    assert mask.shape == (2, 1, 16, 16)
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.bfloat16).min}


@pytest.mark.parametrize("architecture", ["deberta-v2", "xlnet", "t5", "fnet"])
def test_others_are_refused(architecture: str) -> None:
    config = build_config(architecture, "tiny", None, vocab_size=50, max_length=16, special_ids=IDS)
    assert not isolates(config)
    with pytest.raises(UserError, match=f"--data.layout packed: {architecture} can't keep"):
        attention_mask(config, DOCUMENTS, torch.float32, packed=True, padded=True)


def test_a_causal_network_with_a_window_is_refused() -> None:
    config = build_config("qwen3", "tiny", None, vocab_size=50, max_length=16, special_ids=IDS)
    config.layer_types = ["full_attention", "sliding_attention"]
    assert not isolates(config)
