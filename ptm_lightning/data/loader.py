"""Batches from where the trainer stands, grouped by optimizer step so that each knows the step's counts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch.utils.data import DataLoader, Dataset

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.plan import Plan, StepPlan
from ptm_lightning.data.prefetch import prefetched

Key = tuple[int, ...]
WORKER_TIMEOUT_SECONDS = 600
T = TypeVar("T")


class StepBatches(Dataset[Batch], ABC):
    """A plan's batches by their keys; workers hold a copy each."""

    plan: StepPlan

    @abstractmethod
    def pieces(self, key: Key) -> Pieces:
        """The pieces of text that a batch is made of."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Batch:
        """One batch, noise and all."""


@dataclass(frozen=True)
class Batches(StepBatches):
    """Batches of one plan; a key is (epoch, chunk, micro-batch)."""

    plan: Plan
    collate: Callable[[Pieces], Batch]

    def pieces(self, key: Key) -> Pieces:
        """The pieces of text that a batch is made of."""
        epoch, chunk, index = key
        return self.plan.chunk(epoch, chunk).microbatch(index)

    def __getitem__(self, key: Key) -> Batch:
        """One batch, noise and all."""
        return self.collate(self.pieces(key))


class Place(NamedTuple):
    """Where batches are used."""

    rank: int = 0
    processes: int = 1
    cuda: bool = False

    @classmethod
    def of(cls, trainer: Trainer | None) -> "Place":
        """That of a trainer's process; without one, a single process on the CPU."""
        if trainer is None:
            return cls()
        return cls(trainer.global_rank, trainer.world_size, trainer.strategy.root_device.type == "cuda")


@dataclass(frozen=True)
class StepLoader:
    """An iterable over the rest of an epoch of the plan, from `global_step()` on.

    It has no `__len__`, for epochs differ in length, and no state, for its position is the number of steps done.
    It looks one optimizer step ahead and writes the step's counts into each of its micro-batches.
    """

    batches: StepBatches
    global_step: Callable[[], int]
    place: Place
    accumulate: int = 1
    sum_counts: Callable[[dict[str, int]], dict[str, int]] = dict
    """Sums counts over the processes."""
    num_workers: int = 0

    def __iter__(self) -> Iterator[Batch]:
        """Micro-batches of this process, from the next optimizer step to the epoch's end."""
        epoch, window = self.batches.plan.where(self.global_step())
        keys = islice(self.batches.plan.from_window(epoch, window), self.place.rank, None, self.place.processes)
        step: list[Batch] = []
        loader = data_loader(self.batches, keys, self.num_workers, self.place.cuda)
        for batch in made_ahead(loader, self.place.cuda, self.accumulate + 1):
            step.append(batch)
            if len(step) == self.accumulate:
                yield from self._counted(step)
                step = []

    def _counted(self, step: list[Batch]) -> list[Batch]:
        counts: Counter[str] = Counter()
        for batch in step:
            counts.update(batch["counts"])
        total = self.sum_counts(dict(counts))
        for batch in step:
            batch["step_counts"] = total
        return step


@dataclass(frozen=True)
class Share(Generic[T]):
    """This process's share of the batches. Lightning would share out a bare DataLoader once more."""

    loader: DataLoader[T]
    cuda: bool = False

    def __iter__(self) -> Iterator[T]:
        """The batches, in order."""
        return iter(made_ahead(self.loader, self.cuda))

    def __len__(self) -> int:
        """How many there are; Lightning would not evaluate where there is none, and the other processes would wait."""
        return max(1, len(self.loader))


def sum_over_processes(strategy: Strategy, counts: dict[str, int]) -> dict[str, int]:
    """The counts summed over the processes; all call it for the same step."""
    numbers = torch.tensor(list(counts.values()), device=strategy.root_device)
    return dict(zip(counts, strategy.reduce(numbers, reduce_op="sum").tolist(), strict=True))


def data_loader(dataset: Dataset[T], keys: Iterable[Key], num_workers: int, pin_memory: bool = False) -> DataLoader[T]:
    """A DataLoader that takes ready batches by their keys, in order."""
    sampler: Any = keys
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        timeout=WORKER_TIMEOUT_SECONDS if num_workers else 0,
    )


def _as_it_is(batch: T) -> T:
    """Without it, DataLoader would look through the batch for what isn't a tensor yet."""
    return batch


def made_ahead(loader: DataLoader[T], cuda: bool, ahead: int = 2) -> Iterable[T]:
    """What a loader gives, up to `ahead` batches before they are asked for, where CUDA computes meanwhile.

    On a CPU a thread would only take its time from the network's, and worker processes are ahead anyway.
    """
    return prefetched(loader, ahead) if cuda and not loader.num_workers else loader
