"""Generating text: the one way that validation and prediction share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel


@dataclass(frozen=True)
class Generation:
    """How to generate."""

    max_new_tokens: int = 64
    """The longest answer."""
    num_beams: int = 1
    """1 is greedy, or sampling if a temperature is given."""
    temperature: float | None = None
    """Samples instead of taking the most likely; 1 leaves the distribution as it is."""
    top_p: float = 1.0
    """Samples from the most likely tokens that have this share together."""
    seed: int = 0
    """Of sampling."""


@torch.inference_mode()
def generate(
    network: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: Generation,
    *,
    pad_id: int,
    end_id: int | None,
    **options: Any,
) -> list[list[int]]:
    """Continues prompts, or answers the inputs of an encoder-decoder.

    Args:
        network: A causal network or an encoder-decoder.
        prompts: Token ids of each, at least one.
        settings: How.
        pad_id: Fills shorter prompts: on the left for causal networks, whose answer follows on the right.
        end_id: Ends an answer.
        **options: More of transformers' GenerationConfig.

    Returns:
        The ids of each answer, without the prompt, the end and padding.
    """
    longest = max(map(len, prompts))
    ids, mask = (torch.full((len(prompts), longest), fill) for fill in (pad_id, 0))
    encodes = network.config.is_encoder_decoder
    for row, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if encodes else slice(longest - len(prompt), longest)
        ids[row, where] = torch.tensor(prompt, dtype=torch.long)
        mask[row, where] = 1
    sampling = settings.temperature is not None
    make: Any = GenerationConfig  # its constructor and generate have no types
    config = make(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=sampling,
        pad_token_id=pad_id,
        eos_token_id=end_id,
        **({"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0} if sampling else {}),
        **options,
    )
    training = network.training
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        answering: Any = network
        out: Tensor = answering.eval().generate(
            ids.to(network.device), attention_mask=mask.to(network.device), generation_config=config
        )
    network.train(training)
    begin = 1 if encodes else longest  # a decoder begins with its start token
    return [_until(row, end_id, pad_id) for row in out[:, begin:].tolist()]


def answer(network: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: Generation) -> list[list[int]]:
    """What an encoder-decoder says to its inputs; how it begins and ends is in its own config."""
    return generate(network, prompts, settings, pad_id=network.config.pad_token_id, end_id=network.config.eos_token_id)


def _until(ids: list[int], end_id: int | None, pad_id: int) -> list[int]:
    """The ids before the end; padding follows only after it."""
    if end_id in ids:
        return ids[: ids.index(end_id)]
    return [token for token in ids if token != pad_id]
