"""BERT's published sizes, mapped to the names that each family of architectures gives its dimensions."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedConfig

from ptm_lightning.errors import UserError, suggest

SizeName = Literal["tiny", "mini", "small", "medium", "base", "large"]


@dataclass(frozen=True)
class Size:
    """Depth and width of a network."""

    layers: int
    hidden: int
    head_width: int = 64

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.hidden // self.head_width

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layers, also where these are gated."""
        return 4 * self.hidden


# Turc et al. 2019, https://arxiv.org/abs/1908.08962; base and large: Devlin et al. 2018, https://arxiv.org/abs/1810.04805
SIZES = {
    "tiny": Size(2, 128),
    "mini": Size(4, 256),
    "small": Size(4, 512),
    "medium": Size(8, 512),
    "base": Size(12, 768),
    "large": Size(24, 1024),
}

# What the families call the same thing, beside their own `attribute_map`. The decoder is as large as the encoder.
LAYERS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
HEADS = ("num_attention_heads", "decoder_attention_heads")
FEED_FORWARD = (
    "intermediate_size",
    "hidden_dim",  # distilbert
    "n_inner",  # gpt2
    "d_ff",  # t5
    "d_inner",  # xlnet
    "ffn_dim",  # opt
    "encoder_ffn_dim",  # bart
    "decoder_ffn_dim",
)
EMBEDDING = ("embedding_size", "embedding_rank", "input_embedding_size", "word_embed_proj_dim")


def defaults(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """The fields that a config class declares itself, with their defaults.

    Args:
        config_class: A transformers config class.
    """
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {field.name: field.default for field in dataclasses.fields(config_class) if field.name not in base}


def dimensions(config_class: type[PreTrainedConfig], size: str) -> dict[str, int]:
    """The fields of a config class that give a network one of the published sizes.

    Args:
        config_class: A transformers config class.
        size: "tiny", "mini", "small", "medium", "base" or "large".

    Returns:
        Field names and values, {} for a family whose dimensions have names of their own.

    Raises:
        UserError: The size is unknown.
    """
    if size not in SIZES:
        raise UserError(f"--model.size {size}: no such size, {suggest(size, SIZES)}")
    return dimensions_of(config_class, SIZES[size])


def dimensions_of(config_class: type[PreTrainedConfig], wanted: Size) -> dict[str, int]:
    """The fields of a config class that give a network any depth and width.

    Args:
        config_class: A transformers config class.
        wanted: Depth and width.

    Returns:
        Field names and values, {} for a family whose dimensions have names of their own.
    """
    fields = defaults(config_class)
    hidden = _present(config_class, ("hidden_size",))
    # None means "as many as the encoder has" or "as heads" or "hidden / heads": it holds when the user overrides these.
    layers = [name for name in _present(config_class, LAYERS) if fields[name] is not None]
    wide = _present(config_class, FEED_FORWARD)
    if not (hidden and wide and _present(config_class, LAYERS[:1])):
        return {}
    values = dict.fromkeys(hidden, wanted.hidden) | dict.fromkeys(layers, wanted.layers)
    values |= dict.fromkeys(_present(config_class, HEADS), wanted.heads) | dict.fromkeys(wide, wanted.feed_forward)
    values |= {name: wanted.heads for name in ("num_key_value_heads",) if fields.get(name) is not None}
    values |= {name: wanted.head_width for name in _present(config_class, ("head_dim",)) if fields[name] is not None}
    for name in (name for name in EMBEDDING if fields.get(name) is not None):
        factorised = fields[name] != fields[hidden[0]]  # ALBERT and ELECTRA embed in 128 dimensions
        values[name] = min(fields[name], wanted.hidden) if factorised else wanted.hidden
    return values


def check_shapes(network: nn.Module) -> None:
    """Compares the layers with the dimensions that the config claims.

    Several configs swallow unknown fields in silence (`intermediate_size` of distilbert, gpt2, t5, bart), so a config
    proves nothing.

    Args:
        network: A transformers model, built from a config of a family that `dimensions` knows.

    Raises:
        UserError: The network isn't what its config says, so its size would be another than the one asked for.
    """
    config: Any = network.config
    hidden, depth = config.hidden_size, config.num_hidden_layers
    wide = next(getattr(config, name) for name in FEED_FORWARD if getattr(config, name, None) is not None)
    narrow = next((getattr(config, name) for name in EMBEDDING if hasattr(config, name)), hidden)
    depths = {depth, *(getattr(config, name, depth) for name in LAYERS)}
    depths = {config.num_hidden_groups} if hasattr(config, "num_hidden_groups") else depths  # ALBERT shares its layers
    stacks = _stacks(network)
    shapes = {tuple(weight.shape) for stack in stacks for weight in stack.parameters() if weight.dim() == 2}
    twice = (2 * wide, hidden)  # ModernBERT: gate and value in one matrix
    found = {
        f"embeddings {narrow} wide": network.get_input_embeddings().weight.shape[1] == narrow,  # type: ignore[operator]
        f"{depth} layers": {len(stack) for stack in stacks} == depths,
        f"feed-forward layers {wide} wide": bool(shapes & {(wide, hidden), (hidden, wide), twice}),
    }
    absent = [what for what, there in found.items() if not there]
    if absent:
        raise UserError(
            f"--model.architecture {config.model_type}: the network has no {' and no '.join(absent)}, "
            "as its config says; --model.size doesn't fit this family"
        )


def _present(config_class: type[PreTrainedConfig], names: tuple[str, ...]) -> list[str]:
    """The names among these that are fields of the class, translated by its attribute map."""
    fields = defaults(config_class)
    translated = (config_class.attribute_map.get(name, name) for name in names)
    return [name for name in translated if name in fields]


def _stacks(network: nn.Module) -> list[nn.ModuleList]:
    """The outermost lists of layers that hold matrices."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer, _ in found):
            continue
        if any(weight.dim() == 2 for weight in module.parameters()):
            found.append((name, module))
    return [module for _, module in found]
