"""Several plans in one: each optimizer step, with all its micro-batches, belongs to one of them.

Whose turn it is follows from the step's number alone: the turns of a cycle come again and again, spread as evenly as
they can be. So a run that resumes knows, from the steps done, how many of them each part had.

Shapes: p parts; c turns of a cycle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, cycle

import numpy as np

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.loader import Key, StepBatches
from ptm_lightning.data.noise import Floats, Ints
from ptm_lightning.data.plan import Extent, Position, StepPlan

CYCLE = 1000
"""Turns of a cycle by weights: shares are exact to one in so many."""


def apportion(weights: Floats, total: int) -> Ints:
    """Whole numbers in proportion to weights, by the method of the largest remainder.

    Args:
        weights: (p,) not negative, not all zero.
        total: What the numbers sum to.

    Returns:
        (p,)
    """
    exact = weights / weights.sum() * total
    numbers: Ints = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(numbers - exact, kind="stable")
    numbers[by_remainder[: total - numbers.sum()]] += 1
    return numbers


def turns(counts: Ints) -> Ints:
    """Whose turn it is, in a cycle in which each part has so many turns, as evenly spread as can be.

    Args:
        counts: (p,) turns of each part.

    Returns:
        (c,) numbers of parts; the nth of k turns of a part comes when (n + 1/2) / k of the cycle is over.
    """
    when = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
    whose: Ints = np.repeat(np.arange(len(counts)), counts)
    return whose[np.argsort(when, kind="stable")]


@dataclass(frozen=True)
class MixedPlan(StepPlan):
    """The plans of the parts, by turns. A key is a part's number and a key of its plan.

    An epoch is as long as one of each part; by weights, some parts are seen more often in it and others less.
    """

    plans: tuple[StepPlan, ...]
    weights: tuple[float, ...] | None
    """Shares of the steps; None: as many as the parts' sizes say."""

    @cached_property
    def counts(self) -> Ints:
        """(p,) turns of each part in a cycle."""
        if self.weights is None:
            return np.array([plan.extent().steps for plan in self.plans])
        return apportion(np.array(self.weights), CYCLE)

    @cached_property
    def turns(self) -> Ints:
        """(c,) whose turn it is in a cycle."""
        return turns(self.counts)

    @cached_property
    def epoch_steps(self) -> int:
        """Optimizer steps of every epoch."""
        return sum(plan.extent().steps for plan, count in zip(self.plans, self.counts, strict=True) if count)

    def steps_before(self, step: int) -> Ints:
        """(p,) how many of the first `step` optimizer steps each part has."""
        cycles, rest = divmod(step, len(self.turns))
        return cycles * self.counts + np.bincount(self.turns[:rest], minlength=len(self.plans))

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return self.epoch_steps

    def where(self, step: int) -> Position:
        """The epoch, and the window in it, of an optimizer step counted from the run's start."""
        return Position(*divmod(step, self.epoch_steps))

    def from_window(self, epoch: int, window: int) -> Iterator[Key]:
        """Keys of the rest of an epoch's micro-batches, all processes together."""
        first = epoch * self.epoch_steps + window
        keys = [plan.from_step(int(step)) for plan, step in zip(self.plans, self.steps_before(first), strict=True)]
        for step in range(first, (epoch + 1) * self.epoch_steps):
            part = int(self.turns[step % len(self.turns)])
            for _ in range(self.plans[part].window):
                yield part, *next(keys[part])

    def evaluation_keys(self, rank: int, processes: int) -> list[Key]:
        """Keys of one process's share of everything, once; the parts alternate, so that a limit cuts all of them."""
        shares = [plan.evaluation_keys(rank, processes) for plan in self.plans]
        keys = [iter(share) for share in shares]
        return [(int(part), *next(keys[part])) for part in turns(np.array([len(share) for share in shares]))]

    def tokens_by_step(self) -> Iterator[Ints]:
        """Tokens of each optimizer step, some steps at a time, for ever."""
        tokens = [chain.from_iterable(plan.tokens_by_step()) for plan in self.plans]
        for begin in cycle(range(0, len(self.turns), CYCLE)):
            yield np.array([next(tokens[part]) for part in self.turns[begin : begin + CYCLE]])

    def extent(self) -> Extent:
        """How much there is in all parts, and the mean step."""
        extents = [plan.extent() for plan in self.plans]
        step_tokens = np.average([extent.step_tokens for extent in extents], weights=self.counts)
        documents, tokens = (sum(extent[i] for extent in extents) for i in range(2))
        return Extent(int(documents), int(tokens), self.epoch_steps, float(step_tokens))


@dataclass(frozen=True)
class MixedBatches(StepBatches):
    """The batches of several parts; each names its part, also before the names of its counts."""

    plan: MixedPlan
    parts: Mapping[str, StepBatches]

    def pieces(self, key: Key) -> Pieces:
        """The pieces of text that a batch is made of."""
        return self.parts[self._name(key)].pieces(key[1:])

    def __getitem__(self, key: Key) -> Batch:
        """One batch, noise and all."""
        name = self._name(key)
        return named(self.parts[name][key[1:]], name)

    def _name(self, key: Key) -> str:
        return list(self.parts)[key[0]]


def named(batch: Batch, part: str) -> Batch:
    """A batch of a part as one of the mixture: its counts are told from those of other parts."""
    batch = {**batch, "part": part}
    if "counts" in batch:  # it isn't a batch to predict for
        counts = batch["counts"].items()
        batch["counts"] = {name if name == "tokens" else f"{part}/{name}": count for name, count in counts}
    return batch


def of_part(batch: Batch) -> Batch:
    """The batch as the part's own task wants it: undoes `named`."""
    counts = {name.removeprefix(f"{batch['part']}/"): count for name, count in batch.get("counts", {}).items()}
    return {**batch, "counts": counts}
