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
    min_new_tokens: int = 0
    """The shortest answer."""
    length_penalty: float = 1.0
    """Of beams: above 1 longer answers are preferred, below 1 shorter ones."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice; 0: any may."""

    def config(self, **options: Any) -> GenerationConfig:
        """The same in transformers' words, with more of its fields."""
        sampling = self.temperature is not None
        make: Any = GenerationConfig  # its constructor has no types
        config: GenerationConfig = make(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens or None,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            do_sample=sampling,
            **({"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if sampling else {}),
            **options,
        )
        return config


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
    config = settings.config(pad_token_id=pad_id, eos_token_id=end_id, **options)
    return run(network, prompts, config, settings.seed)


@torch.inference_mode()
def run(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, seed: int
) -> list[list[int]]:
    """The same by a config in transformers' words, which has the ids of the padding and the end."""
    pad_id, end_id = config.pad_token_id, config.eos_token_id
    longest = max(map(len, prompts))
    ids, mask = (torch.full((len(prompts), longest), fill) for fill in (pad_id, 0))
    encodes = network.config.is_encoder_decoder
    for row, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if encodes else slice(longest - len(prompt), longest)
        ids[row, where] = torch.tensor(prompt, dtype=torch.long)
        mask[row, where] = 1
    training = network.training
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        answering: Any = network  # its generate has no types
        out: Tensor = answering.eval().generate(
            ids.to(network.device), attention_mask=mask.to(network.device), generation_config=config
        )
    network.train(training)
    begin = 1 if encodes else longest  # a decoder begins with its start token
    return [_until(row, end_id, pad_id) for row in out[:, begin:].tolist()]


def answer(network: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: Generation) -> list[list[int]]:
    """What an encoder-decoder says to its inputs; how it begins and ends is in its own config."""
    return generate(network, prompts, settings, pad_id=network.config.pad_token_id, end_id=network.config.eos_token_id)


def answer_sorted(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], at_once: int, seed: int
) -> list[list[int]]:
    """What a network says by its own generation config, in the order of its inputs.

    Args:
        network: With the generation config.
        prompts: Token ids of each; those of like length are generated for together, with little padding.
        at_once: How many together.
        seed: Of sampling.
    """
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers: list[list[int]] = [[]] * len(prompts)
    for begin in range(0, len(order), at_once):
        numbers = order[begin : begin + at_once]
        config: Any = network.generation_config
        for number, ids in zip(numbers, run(network, [prompts[n] for n in numbers], config, seed), strict=True):
            answers[number] = ids
    return answers


def _until(ids: list[int], end_id: int | None, pad_id: int) -> list[int]:
    """The ids before the end; padding follows only after it."""
    if end_id in ids:
        return ids[: ids.index(end_id)]
    return [token for token in ids if token != pad_id]
