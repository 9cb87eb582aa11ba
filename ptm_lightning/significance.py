"""What can be said of metrics that were measured a few times, and of two models on the same examples."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from ptm_lightning.data.noise import Floats, Purpose, hash64

DRAWS = 10_000
"""Random exchanges of a test between two models: a p of 0.05 comes out between 0.046 and 0.054."""
_CELLS = 2**22
"""Numbers that are drawn at a time."""


class OverSeeds(NamedTuple):
    """A metric over several runs."""

    mean: float
    deviation: float
    """Of the sample, with n - 1; nan of a single run."""
    margin: float
    """Half of the mean's 95 % confidence interval by Student's t; nan of a single run."""


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean, standard deviation and confidence of at least one value."""
    mean, n = fmean(values), len(values)
    if n == 1:
        return OverSeeds(mean, math.nan, math.nan)
    deviation = stdev(values)
    return OverSeeds(mean, deviation, student_t(n - 1) * deviation / math.sqrt(n))


def student_t(freedom: int, confidence: float = 0.95) -> float:
    """The value that the size of a t-distributed number stays below with this probability."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_probability(middle, freedom) < confidence else (low, middle)
    return high


def t_probability(t: float, freedom: int) -> float:
    """That a number from Student's t distribution is no larger than t in size.

    The finite series for whole degrees of freedom: Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) ** odd if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def randomisation_p(ours: Floats, theirs: Floats, seed: int = 0, draws: int = DRAWS) -> float:
    """The paired test by approximate randomisation: how often chance alone makes such a difference of the means.

    If the models were equal, each example's two scores could as well be exchanged. Of right and wrong answers this is
    McNemar's test.

    Args:
        ours: (n,) the scores of one model's predictions.
        theirs: (n,) the other's, of the same examples.
        seed: Of the random exchanges.
        draws: How many there are.

    Returns:
        The two-sided p, at least 1 / (draws + 1).

    References:
        - Noreen, 1989, Computer-Intensive Methods for Testing Hypotheses
        - its use for metrics of text: Riezler and Maxwell, 2005, https://aclanthology.org/W05-0908
    """
    differences = ours - theirs
    differences = differences[differences != 0]
    least = abs(differences.sum()) * (1 - 1e-9)  # sums of the same numbers in another order
    hits, step = 0, max(1, _CELLS // max(1, len(differences)))
    examples = np.arange(len(differences))
    for first in range(0, draws, step):
        numbers = np.arange(first, min(first + step, draws))
        bits = hash64(seed, numbers[:, None], examples, Purpose.EXCHANGE) >> np.uint64(63)
        hits += int((abs(np.where(bits == 1, differences, -differences).sum(axis=1)) >= least).sum())
    return (hits + 1) / (draws + 1)
