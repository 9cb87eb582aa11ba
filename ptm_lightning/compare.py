"""compare: the metrics of runs, each over its seeds, and whether the differences are more than chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ptm_lightning.checkpoint import best
from ptm_lightning.data.noise import Floats
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.run import RunState, read_state
from ptm_lightning.scores import SPLITS, Evaluated, Split
from ptm_lightning.seeds import best_metrics, runs_of
from ptm_lightning.significance import DRAWS, over_seeds, randomisation_p


@dataclass(frozen=True)
class Side:
    """A run that is compared, with its seeds."""

    name: str
    runs: list[Path]
    states: list[RunState]

    @classmethod
    def of(cls, name: str) -> "Side":
        """The finished run of a folder.

        Raises:
            UserError: There is none, or it isn't finished.
        """
        folder = Path(name)
        if read_state(folder) is None:
            raise UserError(f"{name}: there is no run in it; name run folders")
        runs = runs_of(folder)
        states = [read_state(run) or {} for run in runs]
        if any(state.get("state") != "finished" for state in states):
            raise UserError(f"{name}: is not finished; go on with fit --resume {name}")
        return cls(name, runs, states)

    def evaluations(self, split: Split) -> list[Evaluated]:
        """Those of the best checkpoints; none unless there is one of each seed."""
        found = [Evaluated.read(run, split) for run in self.runs]
        kept = [
            each
            for run, each in zip(self.runs, found, strict=True)
            if each is not None and each.checkpoint == getattr(best(run / "checkpoints"), "name", None)
        ]
        return kept if len(kept) == len(self.runs) else []


def compare(names: Sequence[str], split: Split | None = None) -> int:
    """Prints what runs have reached, and tests between each two.

    Raises:
        UserError: A run isn't there or isn't finished; they are of different tasks or were evaluated on other data.
    """
    if not names:
        raise UserError("compare: name run folders, such as: compare runs/a runs/b")
    sides = [Side.of(name) for name in names]
    _refuse_others("task", [(side.name, state["task"]) for side in sides for state in side.states])
    for each in SPLITS if split is None else (split,):
        _compare(sides, each)
    return 0


def _compare(sides: Sequence[Side], split: Split) -> None:
    evaluations = [side.evaluations(split) for side in sides]
    command = "validate" if split == "val" else "test"
    lacking = [side.name for side, found in zip(sides, evaluations, strict=True) if not found]
    for name in lacking if len(sides) > 1 or split == "test" else ():  # a single one needs no test
        say(f"{name}: not evaluated on its {split} data yet; run python -m ptm_lightning {command} --run_dir {name}")
    if not lacking:
        data = [(side.name, each.data) for side, found in zip(sides, evaluations, strict=True) for each in found]
        _refuse_others(f"{split} data", data)
        _print_metrics([[each.metrics for each in found] for found in evaluations], sides)
        _print_tests(evaluations, sides, split)
    elif split == "val":  # training has validated them, on the same data if they say so
        say("val: the metrics are those that training measured at its best checkpoint")
        known = [(side.name, state.get("data", {}).get("val")) for side in sides for state in side.states]
        _refuse_others("val data", known)
        _print_metrics([list(map(best_metrics, side.runs)) for side in sides], sides)


def _refuse_others(what: str, values: Sequence[tuple[str, Any]]) -> None:
    """Refuses runs that differ in something."""
    (first, value), *others = values
    for name, other in others:
        if other != value:
            told = f" ({other}, not {value})" if what == "task" else "; --split compares only one split"
            raise UserError(f"{name}: has another {what} than {first}{told}")


def _print_metrics(found: Sequence[Sequence[dict[str, float]]], sides: Sequence[Side]) -> None:
    """For each metric a line for each run."""
    names = sorted({name for metrics in found for each in metrics for name in each})
    width = max(len(name) for name in [*names, *(f"  {side.name}" for side in sides)])
    for name in names:
        print(f"\n{name:<{width}}{'seeds':>7}{'mean':>12}{'deviation':>12}   95 % interval")
        for side, metrics in zip(sides, found, strict=True):
            values = [each[name] for each in metrics if name in each]
            print(f"{f'  {side.name}':<{width}}{len(values):>7}{_in_words(values)}".rstrip())


def _in_words(values: Sequence[float]) -> str:
    if not values:
        return f"{'-':>12}"
    mean, deviation, margin = over_seeds(values)
    if math.isnan(margin):
        return f"{mean:>12.4f}{'-':>12}   -"
    return f"{mean:>12.4f}{deviation:>12.4f}   {mean - margin:.4f} to {mean + margin:.4f}"


def _print_tests(evaluations: Sequence[Sequence[Evaluated]], sides: Sequence[Side], split: Split) -> None:
    """For each measure a line for each two runs."""
    examples = [(side.name, set(each.scores)) for side, found in zip(sides, evaluations, strict=True) for each in found]
    _refuse_others(f"choice of {split} examples", examples)
    ids = list(evaluations[0][0].scores)
    if not ids or len(sides) == 1:
        return
    for measure in sorted(set.intersection(*(set(each.scores[ids[0]]) for found in evaluations for each in found))):
        print(f"\n{split}, {measure} by example, mean over seeds: paired test on {len(ids):,} with {DRAWS:,} exchanges")
        worth = [_mean_scores(found, ids, measure) for found in evaluations]
        for (ours, a), (theirs, b) in combinations(zip(sides, worth, strict=True), 2):
            print(f"  {ours.name} - {theirs.name}{a.mean() - b.mean():>12.4f}   p = {randomisation_p(a, b):.4f}")


def _mean_scores(evaluations: Sequence[Evaluated], ids: Sequence[str], measure: str) -> Floats:
    """(n,) the mean over the seeds of each example's score."""
    scores = np.array([[each.scores[id_][measure] for id_ in ids] for each in evaluations])  # (seeds, n)
    return np.asarray(scores.mean(axis=0))
