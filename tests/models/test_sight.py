"""Causal networks are told from others, whatever their weights hold."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config

from ptm_lightning.errors import UserError
from ptm_lightning.models.sight import refuse_sight, sees_later_places

SMALL: dict[str, Any] = {"vocab_size": 20, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize("filling", [None, 0.0, float("nan"), float("inf"), 1e30])
def test_causal_networks_pass(filling: float | None):
    network = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=20, n_layer=1, n_embd=16, n_head=2))
    if filling is not None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.view(-1)[::3] = filling
    refuse_sight(network)
    assert network.training


def test_others_are_refused():
    network = AutoModelForCausalLM.from_config(BertConfig(**SMALL))
    assert sees_later_places(network)
    with pytest.raises(
        UserError, match=r"--model.architecture bert: its predictions see later tokens; take a causal one"
    ):
        refuse_sight(network)
    assert not sees_later_places(AutoModelForCausalLM.from_config(BertConfig(**SMALL, is_decoder=True)))
