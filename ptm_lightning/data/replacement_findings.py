"""What a generator's replacements must keep, held against real batches: for `check`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import CHANCE_BITS, Batch
from ptm_lightning.data.show import show_place
from ptm_lightning.findings import Finding, faults, mean, share

ROUNDING = 1e-4
"""How far a chance may lie beside the share that it draws from."""
UNIFORM = 12**-0.5
"""The standard deviation of a number from 0 to 1."""


class Replaced(NamedTuple):
    """What a task makes of a batch before its network judges it."""

    guesses: Tensor
    """(N, vocabulary): the generator's logits at the targets."""
    ids: Tensor
    """(R, T) with tokens drawn from these."""
    labels: Tensor
    """(R, T) bool: which of them are called replaced."""


@dataclass
class Seen:
    """Counts over batches, and the faults found in them."""

    targets: int = 0
    places: int = 0
    expected: float = 0.0
    """Targets that another token replaces, by the generator's guesses."""
    replaced: int = 0
    expected_special: float = 0.0
    special: int = 0
    chances: float = 0.0
    """The sum of what decides the draws, from 0 to 1."""
    draws: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@torch.no_grad()
def replacement_findings(
    batches: Sequence[Batch],
    replace: Callable[[Batch], Replaced],
    tokenizer: PreTrainedTokenizerFast,
    temperature: float,
) -> Iterator[Finding]:
    """Holds replacements to the generator's guesses, and labels to the replacements.

    Args:
        batches: Masked batches with the chances of their draws.
        replace: What the task makes of a batch.
        tokenizer: For examples in words.
        temperature: Of the draws.
    """
    total = Seen()
    for batch in batches:
        made = replace(batch)
        _count_draws(total, batch, made, tokenizer, temperature)
        _count_labels(total, batch, made, tokenizer)
        # Right guesses are rare at first: here all are.
        right: Batch = {**batch, "targets": made.ids.flatten()[batch["target_index"]]}
        _count_labels(total, right, replace(right), tokenizer)
    count = total.targets
    yield mean("chances that decide the draws", 0.5, total.chances, count, UNIFORM)
    yield faults("draws that are not from the guesses", total.draws, count)
    yield share("targets that are replaced", total.expected / max(1, count), total.replaced, count)
    asked = total.expected_special / max(1, count)
    yield share("targets replaced by special tokens", asked, total.special, count)
    yield faults("tokens replaced that are no targets", total.elsewhere, total.places)
    yield faults("labels that are not what was replaced", total.labels, total.places)


def _count_draws(
    total: Seen, batch: Batch, made: Replaced, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    """Chances in [0, 1) lay out the vocabulary's probabilities, one after the other: that tells what each draws."""
    index, targets = batch["target_index"], batch["targets"]
    drawn, special = made.ids.flatten()[index], torch.tensor(tokenizer.all_special_ids)
    chances = (batch["chances"].double() + 0.5) / 2**CHANCE_BITS
    probabilities = (made.guesses.double() / temperature).softmax(dim=1)
    ends = probabilities.cumsum(dim=1)
    end, size = (table.gather(1, drawn[:, None]).squeeze(1) for table in (ends, probabilities))
    off = (chances < end - size - ROUNDING) | (chances > end + ROUNDING)
    total.targets += len(index)
    total.chances += float(chances.sum())
    total.expected += len(index) - float(probabilities.gather(1, targets[:, None]).sum())
    total.replaced += int((drawn != targets).sum())
    total.expected_special += float(probabilities[:, special].sum())
    total.special += int(torch.isin(drawn, special).sum())
    for number in off.nonzero().flatten().tolist():
        place = show_place(_original(batch), int(index[number]), tokenizer)
        token = tokenizer.convert_ids_to_tokens(int(drawn[number]))
        total.draws.append(f"{place} became {token!r}, of probability {size[number]:.2g}, and another was drawn")


def _count_labels(total: Seen, batch: Batch, made: Replaced, tokenizer: PreTrainedTokenizerFast) -> None:
    original = _original(batch)
    target = torch.zeros_like(original, dtype=torch.bool).view(-1).index_fill(0, batch["target_index"], True)
    replaced = made.ids != original
    total.places += int((batch["document_ids"] > 0).sum())
    for place in (replaced.flatten() & ~target).nonzero().flatten().tolist():
        total.elsewhere.append(show_place(made.ids, place, tokenizer))
    for place in (replaced != made.labels).flatten().nonzero().flatten().tolist():
        label = "replaced" if made.labels.flatten()[place] else "original"
        before = tokenizer.convert_ids_to_tokens(int(original.flatten()[place]))
        total.labels.append(f"{show_place(made.ids, place, tokenizer)} is called {label}, and was {before!r}")


def _original(batch: Batch) -> Tensor:
    """(R, T) the ids of a batch before the noise."""
    ids = batch["input_ids"]
    return ids.flatten().scatter(0, batch["target_index"], batch["targets"]).view_as(ids)
