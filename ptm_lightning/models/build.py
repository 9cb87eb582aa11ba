"""Networks: from scratch by architecture and size, from a pretrained folder, or from the config in a checkpoint."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ptm_lightning.errors import UserError
from ptm_lightning.levers import is_on
from ptm_lightning.models.attention import ATTENTION, lets_choose
from ptm_lightning.models.config import build_config, first_line, position_offset
from ptm_lightning.models.dropout import use_fast_dropout
from ptm_lightning.models.head import HeadLabels, label_names, renew_head
from ptm_lightning.models.kind import check_folder, check_kind, explain
from ptm_lightning.models.sizes import check_shapes, dimensions

__all__ = [
    "build_config",
    "build_network",
    "check_fit",
    "load_network",
    "max_positions",
    "network_from_config",
    "position_offset",
    "takes",
]

log = logging.getLogger(__name__)


def build_network(auto_class: str, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A network from scratch, in float32.

    The weights are a function of the seed alone: the global random state is neither read nor changed, and the device is
    the CPU, whatever the accelerator.

    Args:
        auto_class: "AutoModelForMaskedLM" or another of transformers' auto classes.
        config: The config, of a family with known dimensions or not.
        seed: Seed of the weights.

    Returns:
        The network, in training mode.

    Raises:
        UserError: The architecture has no such head, or its dimensions don't fit each other.
    """
    network = _from_config(auto_class, config, seed)
    if dimensions(type(config), "tiny"):
        check_shapes(network)
    network.train()
    return network


def network_from_config(auto_class: str, config: Mapping[str, Any]) -> PreTrainedModel:
    """A network whose weights are still to be loaded: they are uninitialised memory.

    Args:
        auto_class: "AutoModelForMaskedLM" or another of transformers' auto classes.
        config: The config as plain values, as `config.to_dict()` gives it.

    Returns:
        The network, in float32.

    Raises:
        UserError: The installed transformers doesn't know the architecture or its head.
    """
    values = _harmless(config)
    architecture = values.pop("model_type", None)
    if architecture not in CONFIG_MAPPING:
        raise UserError(
            f"the checkpoint's network is a {architecture}: transformers {transformers.__version__} has none"
        )
    with no_init_weights():
        network = _from_config(auto_class, CONFIG_MAPPING[architecture](**values), seed=0)
    network.tie_weights()  # left out with the initialisation
    return network


def load_network(
    auto_class: str, name: str, seed: int = 0, labels: HeadLabels | None = None, trains: bool = True
) -> PreTrainedModel:
    """A pretrained network, in float32 whatever its file holds.

    Weights that the folder lacks (a new head) are drawn from the seed, and named in a warning. Only safetensors are
    read and no code of the folder is run.

    Args:
        auto_class: "AutoModelForMaskedLM" or another of transformers' auto classes.
        name: A folder, or a name on the hub.
        seed: Seed of the new weights.
        labels: What the head shall predict. A head for labels of other names is replaced by a new one.
        trains: Whether it is to be trained, as new weights must be.

    Returns:
        The network, in training mode.

    Raises:
        UserError: There is no such folder, it can't be reached, has no config or no safetensors, they don't fit, or
            weights are new and not to be trained.
    """
    check_folder(name)
    model_class = _auto_class(auto_class)
    try:
        with _quiet_transformers():
            config = _config_of(auto_class, name)
            other = label_names(config) if labels is not None else []
            if labels is not None:
                labels.write(config)

            def load(attention: str) -> Any:
                return model_class.from_pretrained(
                    name,
                    config=config,
                    attn_implementation=attention,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,
                    ignore_mismatched_sizes=labels is not None,
                    output_loading_info=True,
                )

            network, report = _seeded(load, seed, _attention(model_class, config))
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(explain(name, auto_class, error)) from error
    learned = {key for key, weight in network.named_parameters() if weight.requires_grad}  # the others are computed
    missing = sorted(learned & (report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}))
    if labels is not None and other and other != list(labels.names):
        has_other = f"--model.backbone {name} has a head for other labels ({', '.join(other)})"
        _allow_new_weights(trains, has_other, "a new one is drawn")
        renew_head(network, _from_config(auto_class, config, seed))
    if missing:
        lacks = f"--model.backbone {name} has no weights for {', '.join(missing)}"
        _allow_new_weights(trains, lacks, "drawn from the seed")
    use_fast_dropout(network)
    loaded: PreTrainedModel = network.train()
    return loaded


def _config_of(auto_class: str, name: str) -> PreTrainedConfig:
    """That of a folder or a name on the hub, without code of its own."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if hasattr(config, "auto_map"):
        log.warning("--model.backbone %s: its config names code of its own (auto_map), which is not run", name)
        del config.auto_map
    check_kind(auto_class, type(config), f"--model.backbone {name}")
    return config


def _allow_new_weights(trains: bool, why: str, instead: str) -> None:
    """Says that some are drawn, if they are to be trained."""
    if not trains:
        raise UserError(f"{why}, and random ones answer at random; train them by fit, or name a model that has them")
    log.warning("%s: %s", why, instead)


def check_fit(network: PreTrainedModel, tokenizer_length: int, max_length: int) -> None:
    """Refuses a tokenizer or a length that the network can't take, before training.

    Args:
        network: The network.
        tokenizer_length: Number of ids of the tokenizer, added tokens included.
        max_length: The longest row, in tokens, special tokens included.

    Raises:
        UserError: There are more ids than embeddings, or more tokens than positions.
    """
    embeddings: Any = network.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if tokenizer_length > rows:
        raise UserError(
            f"--data.tokenizer: the tokenizer has {tokenizer_length} ids, but the model's embeddings only {rows} rows; "
            "take the tokenizer that the model was trained with"
        )
    limit = max_positions(network)
    if limit is not None and max_length > limit:
        raise UserError(f"--data.max_length {max_length}: the model has {limit} positions; use at most {limit}")


def max_positions(network: PreTrainedModel) -> int | None:
    """The longest row that the table of absolute positions allows, None with relative or rotary positions.

    Args:
        network: The network.
    """
    for name, module in network.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and leaf in {"position_embeddings", "embed_positions", "wpe"}:
            return int(network.config.max_position_embeddings) - position_offset(network.config)
    return None


def takes(network: nn.Module, name: str) -> bool:
    """Whether the network's forward has an argument, such as the positions, which packed rows need.

    Args:
        network: The network.
        name: Of the argument.
    """
    return name in _arguments(type(network).forward)


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    """Looked up each time, they take a good part of the time that a step may lose outside of the network."""
    return frozenset(inspect.signature(forward).parameters)


def _from_config(auto_class: str, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """The network on the CPU in float32; a pooling layer that no loss reads is left out."""
    check_kind(auto_class, type(config), f"--model.architecture {config.model_type}")
    model_class = _auto_class(auto_class)
    options: dict[str, Any] = {}
    if auto_class == "AutoModel" and "add_pooling_layer" in _constructor(model_class, config):
        options["add_pooling_layer"] = False  # DDP refuses parameters without gradients

    def build(attention: str) -> Any:
        return model_class.from_config(config, attn_implementation=attention, dtype=torch.float32, **options)

    try:
        network: PreTrainedModel = _seeded(build, seed, _attention(model_class, config))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--model.overrides for {config.model_type}: {first_line(error)}") from error
    use_fast_dropout(network)
    return network


def _attention(auto_class: Any, config: PreTrainedConfig) -> str:
    """The attention to ask for."""
    return ATTENTION if is_on("attention") and lets_choose(auto_class._model_mapping[type(config)]) else "sdpa"


def _seeded(make: Callable[[str], Any], seed: int, attention: str) -> Any:
    """What `make` returns, drawn from the seed on the CPU, with that attention if the architecture has it."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            torch.default_generator.manual_seed(seed)
            return make(attention)
        except ValueError:
            torch.default_generator.manual_seed(seed)
            return make("eager")


def _auto_class(name: str) -> Any:
    return getattr(transformers, name)


def _constructor(auto_class: Any, config: PreTrainedConfig) -> Mapping[str, inspect.Parameter]:
    """The arguments of the class that builds this config."""
    return inspect.signature(auto_class._model_mapping[type(config)].__init__).parameters


def _harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the keys that name code or kernels to be run."""
    refused = [name for name in config if name == "auto_map" or name.endswith("_internal")]
    if refused:
        log.warning("keys of the config that name code are dropped: %s", ", ".join(refused))
    return {name: value for name, value in config.items() if name not in refused}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar, no table of missing weights: `load_network` says in one line what matters."""
    logging_: Any = transformers.utils.logging
    verbosity, bars = logging_.get_verbosity(), logging_.is_progress_bar_enabled()
    logging_.set_verbosity_error()
    logging_.disable_progress_bar()
    try:
        yield
    finally:
        logging_.set_verbosity(verbosity)
        if bars:
            logging_.enable_progress_bar()
