"""The config of a network from scratch: size, vocabulary, positions and special ids under the family's own names."""

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ptm_lightning.errors import UserError, suggest
from ptm_lightning.models.sizes import defaults, dimensions

log = logging.getLogger(__name__)

# Their position embeddings begin after the row of the padding id.
OFFSET_POSITIONS = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip

# The config classes' own defaults turn DeBERTa's disentangled attention off. He et al., https://arxiv.org/abs/2006.03654
# and https://arxiv.org/abs/2111.09543; the values are those of the published base models.
_DISENTANGLED = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED | {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True},
}

# Named when the user's word is like none of transformers' several hundred.
COMMON = (
    "albert",
    "bart",
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "gpt2",
    "llama",
    "modernbert",
    "roberta",
    "t5",
)

SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def architecture_kind(architecture: str) -> type[PreTrainedConfig]:
    """The class of an architecture's configs.

    Raises:
        UserError: transformers doesn't know it.
    """
    if architecture not in CONFIG_MAPPING:
        known = CONFIG_MAPPING if get_close_matches(architecture, CONFIG_MAPPING) else COMMON
        raise UserError(f"--model.architecture {architecture}: no such architecture, {suggest(architecture, known)}")
    kind: type[PreTrainedConfig] = CONFIG_MAPPING[architecture]
    return kind


def build_config(
    architecture: str,
    size: str,
    overrides: Mapping[str, Any] | None,
    *,
    vocab_size: int,
    max_length: int,
    special_ids: Mapping[str, int | None],
) -> PreTrainedConfig:
    """The config of a network from scratch.

    Args:
        architecture: A model type of transformers: "bert", "roberta", "modernbert", ...
        size: "tiny", "mini", "small", "medium", "base" or "large": BERT's published dimensions.
        overrides: Fields of the config that win over the size.
        vocab_size: Number of ids of the tokenizer.
        max_length: The longest row, in tokens, special tokens included.
        special_ids: Ids by role: any of "pad", "bos", "eos", "cls", "sep", "mask", "unk"; None where there is none.

    Returns:
        The config.

    Raises:
        UserError: An unknown architecture, size or field, or values that don't fit each other.
    """
    assert set(special_ids) <= set(SPECIAL), f"special_ids has unknown roles: {set(special_ids) - set(SPECIAL)}"
    config_class = architecture_kind(architecture)
    sized = dimensions(config_class, size)
    changes = _checked_overrides(config_class, overrides or {}, PUBLISHED.get(architecture, {}))
    if not sized and not changes:
        raise UserError(
            f"--model.size {size}: {architecture} has other dimensions than BERT; give them with --model.overrides, "
            f"the fields are {', '.join(sorted(defaults(config_class)))}"
        )
    if not sized:
        log.warning("--model.size %s is not used: %s has its own dimensions, from overrides", size, architecture)
    values = PUBLISHED.get(architecture, {}) | sized | _special_ids(config_class, special_ids)
    values |= _positions(config_class, architecture, max_length, special_ids.get("pad")) | {"vocab_size": vocab_size}
    try:
        return config_class(**(values | changes))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"--model.overrides for {architecture}: {first_line(error)}") from error


def position_offset(config: PreTrainedConfig) -> int:
    """The id of the first position: RoBERTa and its kin begin after the padding id, others at 0.

    Args:
        config: The network's config.
    """
    return int(config.pad_token_id) + 1 if config.model_type in OFFSET_POSITIONS else 0


def first_line(error: Exception) -> str:
    """What a message of transformers says, without the explanations around it.

    Args:
        error: The error.
    """
    return " ".join(str(error).split("\n\n")[0].split())


def _checked_overrides(
    config_class: type[PreTrainedConfig], overrides: Mapping[str, Any], published: Mapping[str, Any]
) -> dict[str, Any]:
    """The overrides under the config's own names."""
    known = config_class().to_dict().keys() | published.keys() | config_class.attribute_map.keys()
    known = known - {"model_type", "transformers_version", "architectures"}
    for name in overrides:
        if name not in known:
            raise UserError(
                f"--model.overrides.{name}: {config_class.model_type} has no such field, {suggest(name, known)}"
            )
    return {config_class.attribute_map.get(name, name): value for name, value in overrides.items()}


def _special_ids(config_class: type[PreTrainedConfig], ids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Every `*_token_id` of the config, in the tokenizer's ids; defaults of a foreign vocabulary would be wrong ids."""
    own = {"pad": ids.get("pad"), "cls": ids.get("cls"), "sep": ids.get("sep"), "mask": ids.get("mask")}
    own["bos"] = ids["bos"] if ids.get("bos") is not None else own["cls"]
    own["eos"] = ids["eos"] if ids.get("eos") is not None else own["sep"]
    given = defaults(config_class)
    values: dict[str, int | None] = {}
    for name in (name for name in given if name.endswith("_token_id")):
        role = name.removesuffix("_token_id")
        if role in own:  # a family that declares none keeps none, unless the tokenizer has just this one
            values[name] = own[role] if given[name] is not None else ids.get(role)
        elif given[name] is not None:  # decoder_start, forced_eos: each equals one of the others
            twins = [twin for twin in ("pad", "eos", "bos") if given.get(f"{twin}_token_id") == given[name]]
            values[name] = own[twins[0]] if twins else None
    if given.get("is_encoder_decoder", config_class.is_encoder_decoder) and "decoder_start_token_id" not in given:
        values["decoder_start_token_id"] = own["pad"]  # T5, whose class has no such field
    return values


def _positions(
    config_class: type[PreTrainedConfig], architecture: str, max_length: int, pad: int | None
) -> dict[str, int]:
    """The size of the table of positions, under the config's own name."""
    name = config_class.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if name not in defaults(config_class):
        return {}
    if architecture not in OFFSET_POSITIONS:
        return {name: max_length}
    if pad is None:
        raise UserError(f"--data.tokenizer: {architecture} needs a tokenizer with a padding token")
    if architecture == "mpnet" and pad != 1:  # its network takes id 1 for padding whatever the config says
        raise UserError(f"--data.tokenizer: mpnet needs a tokenizer whose padding token has the id 1, not {pad}")
    return {name: max_length + pad + 1}
