"""Generating text: the one way that validation and prediction share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ptm_lightning.greedy import can_go_in_rounds, greedy_answers

Answers = TypeVar("Answers")

LOGITS = 2**25
"""Of so many at a time answers are scored: 128 MB."""


class Answer(NamedTuple):
    """What is generated for an input."""

    ids: list[int]
    """Without the start, the end and padding."""
    score: float
    """Its log-probability in nats, by its length, the end included, to the power of the length penalty."""


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


def run(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, seed: int
) -> list[list[int]]:
    """The same by a config in transformers' words, which has the ids of the padding and the end."""
    ids, mask = _padded(network, prompts, config.pad_token_id)
    states = _encoded(network, ids, mask)
    return [_until(row, config) for row in _generated(network, ids, mask, states, config, seed).tolist()]


def answer(network: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: Generation) -> list[list[int]]:
    """What an encoder-decoder says to its inputs; how it begins and ends is in its own config."""
    return generate(network, prompts, settings, pad_id=network.config.pad_token_id, end_id=network.config.eos_token_id)


def in_groups(
    respond: Callable[[list[Sequence[int]]], Sequence[Answers]],
    prompts: Sequence[Sequence[int]],
    longest: int,
    rows: int,
    places: int,
) -> list[Answers]:
    """What some prompts at a time are answered, in the order of all.

    A step of generation hardly takes longer for many rows than for few, but each row keeps its states of all tokens.

    Args:
        respond: Answers the prompts of a group, which are of like length, so that there is little padding.
        prompts: Token ids of each.
        longest: Tokens of an answer at most.
        rows: Of each prompt: beams, or samples.
        places: How many tokens the rows of a group have at most, answers included. A group has one prompt at least.
    """
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, Answers] = {}
    begin = 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * rows * (len(prompts[order[end]]) + longest) <= places:
            end += 1
        group = order[begin:end]
        found |= zip(group, respond([prompts[number] for number in group]), strict=True)
        begin = end
    return [found[number] for number in range(len(prompts))]


def answer_sorted(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], places: int, seed: int
) -> list[list[int]]:
    """What a network says by its own generation config, in the order of its inputs.

    Args:
        network: With the generation config.
        prompts: Token ids of each.
        places: Of a group, as of `in_groups`.
        seed: Of sampling, in each group.
    """
    config: Any = network.generation_config
    respond = partial(run, network, config=config, seed=seed)
    return in_groups(respond, prompts, config.max_new_tokens, config.num_beams, places)


def n_best(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], places: int, seed: int, count: int
) -> list[list[Answer]]:
    """The best answers to each input by the network's own generation config, the best one first.

    Args:
        network: A causal network or an encoder-decoder.
        prompts: Token ids of each input.
        places: Of a group, as of `in_groups`.
        seed: Of sampling, in each group.
        count: How many answers; no more than there are beams, unless they are sampled.
    """
    config: Any = copy(network.generation_config)
    config.num_return_sequences = count
    respond = partial(_n_best, network, config=config, seed=seed)
    return in_groups(respond, prompts, config.max_new_tokens, max(config.num_beams, count), places)


def _n_best(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, seed: int
) -> list[list[Answer]]:
    count = config.num_return_sequences
    ids, mask = _padded(network, prompts, config.pad_token_id)
    states = _encoded(network, ids, mask)
    answers = _generated(network, ids, mask, states, config, seed)
    prompt: Any = ids if states is None else states.last_hidden_state
    scores = _scores(network, prompt.repeat_interleave(count, 0), mask.repeat_interleave(count, 0), answers, config)
    found = [Answer(_until(row, config), score) for row, score in zip(answers.tolist(), scores, strict=True)]
    each = [found[begin : begin + count] for begin in range(0, len(found), count)]
    return [sorted(answers, key=lambda answer: -answer.score) for answers in each]


@torch.inference_mode()
def _scores(network: Any, prompt: Tensor, mask: Tensor, answers: Tensor, config: GenerationConfig) -> list[float]:
    """The score of each answer, as transformers' `sequences_scores`: what is forced costs nothing.

    It takes one more pass, for transformers would keep the logits of all steps and beams to tell.

    Args:
        network: A causal network or an encoder-decoder.
        prompt: (R, S) ids that a causal network reads; (R, S, H) what an encoder has made of its own.
        mask: (R, S) 0 is padding.
        answers: (R, T), padded behind their end.
        config: They were generated by.
    """
    targets = answers.to(prompt.device)
    ends = targets == config.eos_token_id
    real = ends.cumsum(dim=1) - ends.long() == 0  # the end is the last one that counts
    lengths = real.sum(dim=1)
    if config.forced_bos_token_id is not None:
        real[:, 0] = False
    if config.forced_eos_token_id is not None:
        real[:, config.max_new_tokens - 1 :] = False
    at_once = max(1, LOGITS // (targets.shape[1] * network.config.vocab_size))
    losses = []
    for part in (slice(begin, begin + at_once) for begin in range(0, len(prompt), at_once)):
        logits = _logits_of(network, prompt[part], mask[part], targets[part], config)
        loss = functional.cross_entropy(logits.float().transpose(1, 2), targets[part], reduction="none")  # (r, T)
        losses.append((loss * real[part]).sum(dim=1))
    scores: list[float] = (-torch.cat(losses) / lengths**config.length_penalty).tolist()
    return scores


def _logits_of(network: Any, prompt: Tensor, mask: Tensor, targets: Tensor, config: GenerationConfig) -> Tensor:
    """(R, T, vocabulary) what a network says where the tokens (R, T) behind its prompts are to come."""
    if network.config.is_encoder_decoder:
        begun = torch.cat([torch.full_like(targets[:, :1], config.decoder_start_token_id), targets[:, :-1]], dim=1)
        states = BaseModelOutput(last_hidden_state=prompt)
        logits: Tensor = network(encoder_outputs=states, attention_mask=mask, decoder_input_ids=begun).logits
        return logits
    mask = torch.cat([mask, torch.ones_like(targets)], dim=1)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)  # padding is on the left
    inputs = {"input_ids": torch.cat([prompt, targets], dim=1), "attention_mask": mask, "position_ids": places}
    logits = network(**inputs, logits_to_keep=targets.shape[1] + 1).logits
    return logits[:, :-1]


def _padded(network: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(R, S) ids and mask, padded on the right for an encoder, and else on the left."""
    longest = max(map(len, prompts))
    ids, mask = (torch.full((len(prompts), longest), fill) for fill in (pad_id, 0))
    for row, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if network.config.is_encoder_decoder else slice(longest - len(prompt), longest)
        ids[row, where] = torch.tensor(prompt, dtype=torch.long)
        mask[row, where] = 1
    return ids.to(network.device), mask.to(network.device)


@torch.inference_mode()
def _encoded(network: Any, ids: Tensor, mask: Tensor) -> BaseModelOutput | None:
    """What the encoder makes of the inputs, once for the answers and their scores; None without an encoder."""
    if not network.config.is_encoder_decoder:
        return None
    with _evaluating(network):
        states = network.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
    return BaseModelOutput(last_hidden_state=states.last_hidden_state)


@torch.inference_mode()
def _generated(
    network: Any, ids: Tensor, mask: Tensor, states: BaseModelOutput | None, config: GenerationConfig, seed: int
) -> Tensor:
    """(R, T) the answers, padded behind their end."""
    with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []), _evaluating(network):
        torch.default_generator.manual_seed(seed)
        if ids.is_cuda:  # where transformers draws
            torch.cuda.manual_seed(seed)
        if can_go_in_rounds(network, config):
            out: Tensor = greedy_answers(network, states, mask, config)
        elif states is not None:  # generate repeats the states for its beams, in place
            out = network.generate(encoder_outputs=copy(states), attention_mask=mask, generation_config=config)
        else:
            out = network.generate(ids, attention_mask=mask, generation_config=config)
    begin = ids.shape[1] if states is None else 1  # a decoder begins with its start token
    return out[:, begin:]


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """Without dropout, and without compiled layers: caches that grow would have them compiled again and again."""
    training = network.training
    network.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        network.train(training)


def _until(ids: list[int], config: GenerationConfig) -> list[int]:
    """The ids before the end; padding follows only after it."""
    if config.eos_token_id in ids:
        return ids[: ids.index(config.eos_token_id)]
    return [token for token in ids if token != config.pad_token_id]
