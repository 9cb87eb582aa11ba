"""What a metric is for a model that learned the least: word frequencies, the words that two segments share, and so on.

Pure functions. Shapes: V tokens of a vocabulary, N targets, r rows of two segments.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from math import log, sqrt
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = Sequence[str]
"""Of a segment, in order."""


def unigram_losses(counts: Ints, targets: Ints) -> Floats:
    """The losses, in nats, of guessing each target by how frequent it is among the targets of training.

    Args:
        counts: (V,) of each token among the targets of training; one is added, so that none is impossible.
        targets: (N,)

    Returns:
        (N,)
    """
    share = (counts + 1.0) / (counts.sum() + len(counts))
    return np.asarray(-np.log(share[targets]))


def entropy(share: float) -> float:
    """The loss, in nats, of who knows only what share of the answers is yes."""
    return -sum(p * log(p) for p in (share, 1 - share) if p > 0)


def finding_all(share: float, loss_weight: float) -> dict[str, float]:
    """Metrics of calling every token replaced; accuracy and loss are those of the best constant answer.

    Args:
        share: Of the tokens that are replaced.
        loss_weight: Weight of the discriminator's loss; the generator's is to be added.
    """
    return {
        "precision": share,
        "recall": 1.0,
        "f1": 2 * share / (1 + share),
        "auroc": 0.5,
        "accuracy": max(share, 1 - share),
        "rtd_loss": entropy(share),
        "loss": loss_weight * entropy(share),
    }


def overlap(pairs: Sequence[tuple[Words, Words]], weights: Mapping[str, float]) -> Floats:
    """The words that two segments share: the cosine of both, each word weighted.

    Args:
        pairs: r rows: the words of both segments.
        weights: Of words, such as `rarity`; a word without one doesn't count.

    Returns:
        (r,) from 0 to 1; 0 where a segment has no words.
    """

    def squares(words: Iterable[str]) -> float:
        return sum(weights.get(word, 0.0) ** 2 for word in words)

    sets = [(frozenset(first), frozenset(second)) for first, second in pairs]
    return np.array([squares(a & b) / (sqrt(squares(a) * squares(b)) or 1.0) for a, b in sets], dtype=np.float64)


def rarity(pairs: Sequence[tuple[Words, Words]]) -> dict[str, float]:
    """The inverse document frequency of each word: the log of r over the number of rows that have it."""
    rows = Counter(word for first, second in pairs for word in {*first, *second})
    return {word: log(len(pairs) / count) for word, count in rows.items()}


def best_threshold(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The threshold from which on to say yes, right for the most rows.

    Args:
        scores: (r,)
        positive: (r,)
    """
    order = np.argsort(scores, kind="stable")
    scores, positive = scores[order], positive[order]
    yes_above = np.append(0, np.cumsum(np.where(positive, -1, 1)))  # right answers more than if all were yes
    cuts = np.append(np.flatnonzero(np.diff(scores, prepend=-np.inf) > 0), len(scores))
    at = int(cuts[np.argmax(yes_above[cuts])])
    return float(scores[at]) if at < len(scores) else float("inf")


class NaiveBayes(NamedTuple):
    """Tells which of two segments comes first by the words in each, and by pairs of neighbouring words."""

    log_odds: dict[str, float]
    """Of a word or a pair: the log of how much more often it stands in first segments than in second ones."""

    @classmethod
    def fit(cls, ordered: Sequence[tuple[Words, Words]]) -> Self:
        """Counts in how many segments a word or pair stands; one is added to each count.

        Args:
            ordered: r rows: the words of both segments, in their true order.
        """
        first, second = (Counter(chain.from_iterable(_features(pair[i]) for pair in ordered)) for i in (0, 1))
        known = {*first, *second}
        prior = log((second.total() + len(known)) / (first.total() + len(known)))
        return cls({feature: prior + log((first[feature] + 1) / (second[feature] + 1)) for feature in known})

    def swapped(self, pairs: Sequence[tuple[Words, Words]]) -> NDArray[np.bool_]:
        """(r,) whether the second segment of a row is likelier to be the first."""
        scores = [[sum(self.log_odds.get(f, 0.0) for f in _features(words)) for words in pair] for pair in pairs]
        first, second = np.array(scores, dtype=np.float64).reshape(-1, 2).T
        return np.asarray(second > first)


def _features(words: Words) -> set[str]:
    return {*words, *map(" ".join, pairwise(["", *words]))}
