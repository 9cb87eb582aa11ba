"""What a task shows of an evaluation in figures, as plain data; `plots.py` draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ptm_lightning.metrics.classification import confusion_matrix, reliability


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


def calibration(probabilities: Tensor, labels: Tensor) -> Curves:
    """A reliability diagram: how often predictions of each probability are right.

    Args:
        probabilities: (n, L) of each label.
        labels: (n,) the right ones.
    """
    confidence, accuracy, shares = reliability(probabilities, labels)
    error = float((shares * (confidence - accuracy).abs()).sum())
    lines = {"model": (confidence.tolist(), accuracy.tolist()), "as it should be": ([0.0, 1.0], [0.0, 1.0])}
    title = f"calibration error {error:.4f}"
    return Curves(title, "probability of the predicted label", "share of right predictions", lines)


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
