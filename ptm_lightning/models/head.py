"""The labels of a classification head: in the network's config, and whether a pretrained head knows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

GENERIC = "LABEL_"
"""How transformers calls labels that nobody has named."""


@dataclass(frozen=True)
class HeadLabels:
    """What a head predicts."""

    names: Sequence[str]
    """In the order of their ids; none for a number."""
    problem_type: Any
    """In transformers' words."""

    def write(self, config: PreTrainedConfig) -> None:
        """Writes them into a network's config."""
        names = list(self.names) or [f"{GENERIC}0"]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
        config.problem_type = self.problem_type


def label_names(config: PreTrainedConfig) -> list[str]:
    """The names that a pretrained head has for its labels; none if they are generic."""
    names = _names(config)
    return [] if all(name.startswith(GENERIC) for name in names) else names


def backbone_labels(name: str) -> list[str]:
    """The label names of a pretrained network, a folder or a hub name; none if they are generic."""
    return label_names(AutoConfig.from_pretrained(name, trust_remote_code=False))


def told_by_head(config: PreTrainedConfig) -> dict[str, Any]:
    """The `labels` and the `problem_type` of a pretrained head, where no data tell them."""
    names = _names(config)
    kind = config.problem_type or ("regression" if len(names) == 1 else "single_label_classification")
    return {"labels": [] if kind == "regression" else names, "problem_type": kind}


def backbone_head(name: str) -> dict[str, Any]:
    """The same of a pretrained network, a folder or a hub name; labels without names are called by their numbers."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    told = told_by_head(config)
    named = bool(label_names(config))
    return told | {"labels": told["labels"] if named else [str(number) for number in range(len(told["labels"]))]}


def _names(config: PreTrainedConfig) -> list[str]:
    by_number: dict[Any, str] = config.id2label or {}
    return [by_number[number] for number in sorted(by_number, key=int)]


def renew_head(network: PreTrainedModel, fresh: PreTrainedModel) -> None:
    """Gives a network the weights of a fresh one wherever they don't belong to its body."""
    body = f"{network.base_model_prefix}."
    weights: dict[str, Any] = fresh.state_dict()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith(body):
                parameter.copy_(weights[name])
