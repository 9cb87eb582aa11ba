"""What a task shows of an evaluation in figures, as plain data; `plots.py` draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ptm_lightning.metrics.classification import (
    calibration_error,
    confusion_matrices,
    confusion_matrix,
    reliability,
)


@dataclass(frozen=True)
class Matrix:
    """Counts by two names, such as how often one label was taken for another."""

    title: str
    rows: tuple[str, Sequence[str]]
    """What they are, and their names."""
    columns: tuple[str, Sequence[str]]
    """The same."""
    counts: Sequence[Sequence[int]]
    """By row and column."""


@dataclass(frozen=True)
class Curves:
    """Values over a number."""

    title: str
    x: str
    """What the number is."""
    y: str
    """What the values are."""
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """By name, the numbers and the values."""


Figure = Matrix | Curves


def confusion(predicted: Tensor, right: Tensor, names: Sequence[str]) -> Matrix:
    """How often each label, in rows, was predicted as each, in columns.

    Args:
        predicted: (n,)
        right: (n,)
        names: Of the labels, by their numbers.
    """
    counts = confusion_matrix(predicted, right, len(names)).tolist()
    return Matrix("confusion matrix", ("label", names), ("predicted", names), counts)


def confusion_by_label(predicted: Tensor, right: Tensor, names: Sequence[str]) -> Matrix:
    """How often each of several labels was predicted, in one row where it was there and in the next where it wasn't.

    Args:
        predicted: (n, L) 0 or 1.
        right: (n, L) 0 or 1.
        names: Of the labels, by their numbers.
    """
    rows = [row for name in names for row in (name, f"not {name}")]
    counts = confusion_matrices(predicted, right).view(-1, 2).tolist()
    return Matrix("confusion matrix of each label", ("label", rows), ("", ("predicted", "not predicted")), counts)


def calibration(chances: Tensor, came_true: Tensor) -> Curves:
    """A reliability diagram: how often what is said with each probability comes true.

    Args:
        chances: (n,) probabilities.
        came_true: (n,) 0 or 1.
    """
    mean, share, _ = reliability(chances, came_true)
    lines = {"model": (mean.tolist(), share.tolist()), "as it should be": ([0.0, 1.0], [0.0, 1.0])}
    title = f"calibration error {calibration_error(chances, came_true):.4f}"
    return Curves(title, "probability", "share that comes true", lines)


def threshold_curve(thresholds: Sequence[float], f1: Sequence[float], used: float | None) -> Curves:
    """F1 by how doubtful an answer may be to be given.

    Args:
        thresholds: In order.
        f1: With each, in percent.
        used: The one that is used; None: every question is answered.
    """
    lines = {"all thresholds": (thresholds, f1)}
    if used is not None:
        lines["the one that is used"] = ([used, used], [min(f1), max(f1)])
    return Curves("questions without an answer", "doubt up to which answers are given", "F1", lines)
