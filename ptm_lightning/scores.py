"""What a run keeps of an evaluation: its metrics, and what each example's prediction is worth.

`evaluations/val.jsonl` or `test.jsonl` in the run folder: a line that says what was evaluated, then one by example.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

from ptm_lightning.data.example_data import ExampleData
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.files import atomic_write
from ptm_lightning.task import Task

Split = Literal["val", "test"]
SPLITS: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run's checkpoint."""

    split: Split
    data: str
    """What was evaluated on, by `data_digest`."""
    checkpoint: str
    """The file's name."""
    metrics: dict[str, float]
    scores: dict[str, dict[str, float]]
    """By the example's id, what its prediction is worth by each measure; {} of tasks without such measures."""
    sources: list[str] = field(default_factory=list)
    """What the user named for the split; none if its data were held out of the training sources."""
    documents: int = 0
    """How many there are."""

    @classmethod
    def of(cls, task: Task, data: TaskData, split: Split, checkpoint: str, metrics: Mapping[str, float]) -> Self:
        """The evaluation that a trainer has just made."""
        by_measure = task.example_scores(task.evaluation.records)
        store, first = _stores(data, split)[0], next(iter(data.members().values()))
        numbers = sorted(set().union(*by_measure.values()))
        ids = first.example_ids(store, numbers) if isinstance(first, ExampleData) else []
        scores = {
            id_: {name: values[number] for name, values in by_measure.items()}
            for number, id_ in zip(numbers, ids, strict=True)
        }
        digest = data_digest(data, split)
        assert digest is not None
        named = [getattr(member, _name(split)) or () for member in data.members().values()]
        sources = list(dict.fromkeys(chain.from_iterable(named)))
        documents = sum(map(len, _stores(data, split)))
        return cls(split, digest, checkpoint, dict(metrics), scores, sources, documents)

    def write(self, run: Path) -> None:
        """Writes it into a run folder, whole or not at all."""
        told: dict[str, Any] = asdict(self)
        scores = told.pop("scores")
        lines = [told, *({"id": id_, "scores": values} for id_, values in scores.items())]
        atomic_write(_path(run, self.split), "".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, run: Path, split: Split) -> Self | None:
        """What was last written there; None if nothing was."""
        if not _path(run, split).exists():
            return None
        told, *examples = map(json.loads, _path(run, split).read_text().splitlines())
        return cls(**told, scores={line["id"]: line["scores"] for line in examples})


def data_digest(data: TaskData, split: Split) -> str | None:
    """Tells whether two runs are evaluated on the same data, whatever their tokenizers; None if there are none."""
    stores = _stores(data, split)
    return None if None in stores else hashlib.sha256(" ".join(map(_digest, stores)).encode()).hexdigest()[:16]


def _stores(data: TaskData, split: Split) -> list[Any]:
    return [getattr(member.corpus, _name(split)) for member in data.members().values()]


def _name(split: Split) -> str:
    """What a data module and its corpus call a split."""
    return "validation" if split == "val" else split


def _digest(store: TokenStore) -> str:
    """Of the rows as they were read; of plain text, how many documents and bytes there are."""
    if not isinstance(store, ExampleStore):
        return f"{store.info['documents']} {store.info['bytes']}"
    with open(store.folder / "rows.jsonl", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path(run: Path, split: Split) -> Path:
    return run / "evaluations" / f"{split}.jsonl"
