"""The network that a task starts with: a checkpoint's, a pretrained one, or one from scratch."""

from collections.abc import Mapping
from typing import Any, Protocol

from transformers import PreTrainedModel

from ptm_lightning.link import Link
from ptm_lightning.models.build import build_network, load_network, network_from_config
from ptm_lightning.models.config import build_config
from ptm_lightning.models.head import HeadLabels


class Start(Protocol):
    """The arguments of a task that say what it starts with."""

    backbone: str | None
    architecture: str
    size: Any
    overrides: dict[str, Any] | None
    seed: int


def start_network(auto_class: str, start: Start, link: Link) -> PreTrainedModel:
    """Builds the network; its weights are drawn only where none are loaded.

    Args:
        auto_class: Name of the transformers auto class.
        start: The task's arguments.
        link: What the network must fit: the vocabulary, and a checkpoint's config if there is one.

    Returns:
        In training mode, in single precision.
    """
    if link.network is not None:
        return network_from_config(auto_class, link.network)
    labels = HeadLabels(link.labels, link.problem_type) if link.labels or link.problem_type else None
    if start.backbone:
        return load_network(auto_class, start.backbone, start.seed, labels)
    special_ids: Mapping[str, int | None] = link.special_ids
    config = build_config(
        start.architecture,
        start.size,
        start.overrides,
        vocab_size=link.vocabulary,
        max_length=link.max_length,
        special_ids=special_ids,
    )
    if labels is not None:
        labels.write(config)
    return build_network(auto_class, config, start.seed)
