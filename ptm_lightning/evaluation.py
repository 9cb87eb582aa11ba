"""What an evaluation gathers over its batches and processes: sums, and a record of each example."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from ptm_lightning.terms import RunningSums, Terms

Record = dict[str, Any]
"""What metrics need to know of an example: its number as "example", the "part" of a mixture, and what the task says."""


class Evaluation:
    """Sums of terms, and records of examples."""

    def __init__(self) -> None:
        self.sums = RunningSums()
        self.records: list[Record] = []
        self.split: Literal["validation", "test"] = "validation"
        """The examples' data."""

    def clear(self) -> None:
        """Starts anew."""
        self.sums.clear()
        self.records = []

    def add(self, terms: Terms, records: Iterable[Record]) -> None:
        """Adds a batch."""
        self.sums.add(terms)
        self.records += records

    def over_processes(self, strategy: Strategy, processes: int) -> RunningSums:
        """The sums over all processes; the records become those of all examples, each once and in their order."""
        parts: list[Any] = [self.records] * processes
        if processes > 1:
            torch.distributed.all_gather_object(parts, self.records)
        self.records = in_order(record for part in parts for record in part)
        return self.sums.over_processes(strategy, processes)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records by the numbers of their examples; an example that was seen twice counts once."""
    found = {(record.get("part", ""), record["example"]): record for record in records}
    return [record for _, record in sorted(found.items())]


def records_of(examples: Tensor, **columns: Tensor) -> list[Record]:
    """A record for each row of a batch.

    Args:
        examples: (R,) their numbers.
        **columns: (R, ...) values by name; they come to the CPU.
    """
    values = {name: list(column.detach().float().cpu()) for name, column in columns.items()}
    numbers = examples.tolist()
    return [{"example": n} | {name: value[i] for name, value in values.items()} for i, n in enumerate(numbers)]
