"""Tiny configs and networks of any architecture."""

from typing import Any

import torch
from transformers import PreTrainedModel

from ptm_lightning.models.build import build_config, build_network

IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
MASKED = ["bert", "roberta", "albert", "distilbert", "electra", "modernbert", "deberta-v2"]
MLM = "AutoModelForMaskedLM"


def config(architecture: str = "bert", overrides: dict[str, Any] | None = None, **changes: Any) -> Any:
    arguments = {"vocab_size": 50, "max_length": 16, "special_ids": IDS} | changes
    return build_config(architecture, "tiny", overrides, **arguments)


def network(architecture: str = "bert", seed: int = 0, auto_class: str = MLM) -> PreTrainedModel:
    return build_network(auto_class, config(architecture), seed)


def with_larger_weights(network: PreTrainedModel) -> PreTrainedModel:
    """The same network, changed in place: at their initial scale, attention hardly tells tokens apart."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.mul_(3)
    return network
