"""Greedy answers of an encoder-decoder in rounds: those that have ended leave the batch, and the rest goes on."""

from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

ROUND = 8
"""Tokens of a round: fewer leave sooner, and cost more starts."""


class _RoundEnds(StoppingCriteria):
    """Ends `generate` for all rows at a length, without making it the longest answer's, which may have a forced end."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length, device=input_ids.device)


def can_go_in_rounds(network: Any, config: GenerationConfig) -> bool:
    """Whether answers don't depend on one another: an encoder-decoder's, neither sampled nor searched by beams."""
    return bool(network.config.is_encoder_decoder and config.num_beams == 1 and not config.do_sample)


def greedy_answers(network: Any, states: Any, mask: Tensor, config: GenerationConfig) -> Tensor:
    """What transformers' `generate` gives, token by token.

    Args:
        network: An encoder-decoder, in evaluation mode.
        states: What its encoder says, with a `last_hidden_state` of (R, S, H).
        mask: (R, S) 0 is padding.
        config: Greedy, with `max_new_tokens` and the ids of the start, the end and padding.

    Returns:
        (R, 1 + T) the start token and the answers, padded behind their end.
    """
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    start: Any = config.decoder_start_token_id
    if start is None:
        start = network.config.decoder_start_token_id
    begun = torch.full((len(mask), 1), start, device=mask.device)
    answers = torch.full((len(mask), 1 + config.max_new_tokens), config.pad_token_id, device=mask.device)
    rows, round_config, longest = torch.arange(len(mask), device=mask.device), copy(config), 1
    while len(rows):
        done = begun.shape[1] - 1
        round_config.max_new_tokens = config.max_new_tokens - done
        round_config.min_new_tokens = max(0, (config.min_new_tokens or 0) - done)
        begun = network.generate(
            encoder_outputs=states,
            attention_mask=mask,
            decoder_input_ids=begun,
            decoder_attention_mask=torch.ones_like(begun),  # of all tokens: it says that the cache has the first ones
            past_key_values=cache,
            generation_config=round_config,
            stopping_criteria=StoppingCriteriaList([_RoundEnds(1 + done + ROUND)]),
        )
        longest = begun.shape[1]
        answers[rows, :longest] = begun
        going = (begun[:, 1:] != config.eos_token_id).all(dim=1) & (longest <= config.max_new_tokens)
        kept = going.nonzero().squeeze(1)
        if len(kept) < len(rows):
            cache.batch_select_indices(kept)
            states = type(states)(last_hidden_state=states.last_hidden_state[kept])
            rows, begun, mask = rows[kept], begun[kept], mask[kept]
    return answers[:, :longest]
