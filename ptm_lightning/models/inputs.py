"""From a batch to the arguments of a network, whatever its architecture."""

from typing import Any

from transformers import PreTrainedModel

from ptm_lightning.data.batch import Batch
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import takes
from ptm_lightning.models.config import position_offset
from ptm_lightning.models.masks import attention_mask, document_mask, isolates


def network_inputs(network: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Ids, the mask that the architecture understands, positions, and what else the batch has and the network takes.

    Args:
        network: A transformers model.
        batch: R rows of T places, for an encoder-decoder with R rows of U places of the decoder.

    Returns:
        Keyword arguments of the network's forward, without labels.
    """
    inputs: dict[str, Any] = {
        "input_ids": batch["input_ids"],
        "attention_mask": _mask(network, batch),
    }
    if takes(network, "position_ids"):
        inputs["position_ids"] = batch["position_ids"] + position_offset(network.config)
    if "token_type_ids" in batch and takes(network, "token_type_ids"):
        types = getattr(network.config, "type_vocab_size", None)  # RoBERTa has but one
        inputs["token_type_ids"] = batch["token_type_ids"].clamp(max=types - 1) if types else batch["token_type_ids"]
    if "decoder_input_ids" in batch:  # its padding is at the end, where no real token looks
        inputs["decoder_input_ids"] = batch["decoder_input_ids"].clone()
        inputs["decoder_input_ids"][:, 0] = network.config.decoder_start_token_id
    if takes(network, "use_cache"):
        inputs["use_cache"] = False  # with a cache, packed documents see each other
    return inputs


def _mask(network: PreTrainedModel, batch: Batch) -> Any:
    """What keeps padding and other documents out of the attention."""
    config: Any = network.config
    ids = batch["document_ids"]
    if "sequences" in batch and _attends_by_documents(config):
        return document_mask(config, ids, batch["sequences"])
    return attention_mask(config, ids, network.dtype, packed=batch["packed"], padded=batch["padded"])


def _attends_by_documents(config: Any) -> bool:
    """Whether a `DocumentMask` comes to our attention, and to nothing else: ModernBERT's mean reads the mask, too."""
    ours = config._attn_implementation == ATTENTION and isolates(config)
    return ours and getattr(config, "classifier_pooling", "cls") == "cls"
