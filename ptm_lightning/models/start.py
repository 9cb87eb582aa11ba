"""The network that a task starts with: a checkpoint's, a pretrained one, or one from scratch."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ptm_lightning.data.tokenizer import load_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.link import Link
from ptm_lightning.log import say
from ptm_lightning.models.build import build_network, check_fit, load_network, network_from_config
from ptm_lightning.models.config import architecture_kind, build_config
from ptm_lightning.models.extend import extend_vocabulary
from ptm_lightning.models.head import HeadLabels
from ptm_lightning.models.kind import backbone_kind, check_kind

SEQ2SEQ, CAUSAL = "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"
SHOWN = 8
"""New tokens that are named."""


class Start(Protocol):
    """The arguments of a task that say what it starts with."""

    backbone: str | None
    architecture: str
    size: Any
    overrides: dict[str, Any] | None
    seed: int

    def check_kind(self, kind: type[PreTrainedConfig], flag: str) -> None:
        """Refuses a network that the task can't use."""


def start_network(auto_class: str, start: Start, link: Link, trains: bool = True) -> PreTrainedModel:
    """Builds the network; its weights are drawn only where none are loaded.

    Args:
        auto_class: Name of the transformers auto class.
        start: The task's arguments.
        link: What the network must fit: the vocabulary, and a checkpoint's config if there is one.
        trains: Whether the network is to be trained; else a pretrained one must have all of its weights.

    Returns:
        In training mode, in single precision.

    Raises:
        UserError: The task can't use it.
    """
    network = _network(auto_class, start, link, trains)
    kind = type(network.config)
    start.check_kind(kind, _flag(start, kind.model_type))
    return network


def _network(auto_class: str, start: Start, link: Link, trains: bool) -> PreTrainedModel:
    if link.network is not None:
        return network_from_config(auto_class, link.network)
    labels = HeadLabels(link.labels, link.problem_type) if link.labels or link.problem_type else None
    if start.backbone:
        if start.overrides:
            say("--model.overrides: not used, for the backbone has a config of its own")
        network = load_network(auto_class, start.backbone, start.seed, labels, trains)
        _begin_decoder(network)
        _extend(network, link)
        return network
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


def start_tokenizer(auto_class: str | None, start: Start) -> PreTrainedTokenizerFast | None:
    """The tokenizer of what a task starts with; None from scratch. The network's kind is asked first.

    Args:
        auto_class: What the network must be; None while a mixture's parts, which say it, aren't known.
        start: The task.

    Raises:
        UserError: There is no such architecture, the network is of another kind, or it has no tokenizer.
    """
    if auto_class is not None:
        kind = backbone_kind(auto_class, start.backbone) if start.backbone else architecture_kind(start.architecture)
        flag = _flag(start, start.architecture)
        check_kind(auto_class, kind, flag)
        start.check_kind(kind, flag)
    return load_tokenizer(start.backbone) if start.backbone else None


def _flag(start: Start, architecture: str) -> str:
    """What the user has said of the network."""
    return f"--model.backbone {start.backbone}" if start.backbone else f"--model.architecture {architecture}"


def encodes(start: Start) -> bool:
    """Whether what a task starts with is an encoder-decoder; what can't be built from scratch is none."""
    if start.backbone:
        return bool(AutoConfig.from_pretrained(start.backbone, trust_remote_code=False).is_encoder_decoder)
    known = start.architecture in CONFIG_MAPPING
    return known and bool(CONFIG_MAPPING[start.architecture]().is_encoder_decoder)


def meet_data(
    network: PreTrainedModel,
    auto_class: str,
    link: Link,
    data: Link,
    auxiliary: Mapping[str, PreTrainedModel],
) -> Link:
    """What a task knows once it has met its data; a network that comes from a run gets the data's new tokens.

    Args:
        network: The task's.
        auto_class: Of the network.
        link: What the task knew before.
        data: What the data module says.
        auxiliary: Networks that only training needs, which get the new tokens, too.

    Raises:
        UserError: The network can't take the data's tokens, or was trained with another tokenizer.
    """
    if data.new_tokens and not link.new_tokens:
        _extend(network, data)
        for other in auxiliary.values():
            extend_vocabulary(other, data.new_tokens, data.vocabulary - len(data.new_tokens))
            other.tie_weights()
        taken = {name: getattr(data, name) for name in ("tokenizer", "tokenizer_config", "vocabulary", "new_tokens")}
        link = replace(link, **taken).with_network(auto_class, network.config)
    check_fit(network, data.vocabulary, data.max_length)
    if data.tokenizer != link.tokenizer:
        raise UserError(
            "--data.tokenizer: the model was trained with another; leave the flag out to use the model's own"
        )
    return replace(link, provenance=data.provenance, max_length=data.max_length, parts=data.parts)


def _begin_decoder(network: PreTrainedModel) -> None:
    """Says how a decoder begins where its config doesn't, such as a T5's that isn't from the hub."""
    config: Any = network.config
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        told = getattr(getattr(network, "generation_config", None), "decoder_start_token_id", None)
        config.decoder_start_token_id = config.pad_token_id if told is None else told


def _extend(network: PreTrainedModel, link: Link) -> None:
    if link.new_tokens:
        extend_vocabulary(network, link.new_tokens, link.vocabulary - len(link.new_tokens))
        named = ", ".join(islice(link.new_tokens, SHOWN))
        say(f"{len(link.new_tokens)} new tokens, each of which begins as the mean of its pieces: {named}, ...")
