from math import exp, log

import baselines
import numpy as np
import pytest


def test_unigram_losses_are_logs_of_smoothed_shares() -> None:
    losses = baselines.unigram_losses(np.array([6, 0, 1]), np.array([0, 1, 0]))
    assert losses == pytest.approx([-log(7 / 10), -log(1 / 10), -log(7 / 10)])


@pytest.mark.parametrize(("share", "expected"), [(0.5, log(2)), (0.0, 0.0), (0.25, 0.25 * log(4) + 0.75 * log(4 / 3))])
def test_entropy(share: float, expected: float) -> None:
    assert baselines.entropy(share) == pytest.approx(expected)


def test_finding_all_replaced_tokens() -> None:
    found = baselines.finding_all(0.2, loss_weight=50.0)
    precision, recall = 20 / 100, 20 / 20  # of 100 tokens, 20 are replaced and all are called so
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["loss"] == pytest.approx(50 * baselines.entropy(0.2))


def test_overlap_is_a_cosine_of_weighted_words() -> None:
    weights = {"the": 0.0, "cat": 2.0, "sat": 1.0}
    pairs = [(["the", "cat", "cat"], ["the", "cat", "sat"]), (["the"], ["cat"]), ([], ["unheard"])]
    assert baselines.overlap(pairs, weights) == pytest.approx([2 / 5**0.5, 0.0, 0.0])


def test_rarity_counts_rows() -> None:
    assert baselines.rarity([(["a", "a"], ["a", "b"]), (["a"], [])]) == pytest.approx({"a": 0.0, "b": log(2)})


def test_the_best_threshold_is_that_of_a_search() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        scores = random.integers(0, 5, 9) / 4  # ties
        positive = random.random(9) < 0.5
        threshold = baselines.best_threshold(scores, positive)
        best = max(((scores >= cut) == positive).sum() for cut in [*scores, np.inf])
        assert ((scores >= threshold) == positive).sum() == best


def test_naive_bayes_is_that_of_a_loop() -> None:
    random = np.random.default_rng(0)
    words = [[[f"w{i}" for i in random.integers(0, 6, 4)] for _ in range(2)] for _ in range(12)]
    ordered = [(first, second) for first, second in words]

    def features(segment: list[str]) -> set[str]:
        return set(segment) | {f"{a} {b}" for a, b in zip(["", *segment], segment, strict=False)}

    known = {feature for pair in ordered for segment in pair for feature in features(segment)}

    def likelihood(segment: list[str], place: int) -> float:
        """Of a segment in a place: the product over its features of their smoothed shares there."""
        seen = [feature for pair in ordered for feature in features(pair[place])]
        return float(np.prod([(seen.count(f) + 1) / (len(seen) + len(known)) for f in features(segment) if f in known]))

    found = baselines.NaiveBayes.fit(ordered)
    asked = [*ordered, *((second, first) for first, second in ordered), (["w1", "new"], ["w2"])]
    expected = [likelihood(a, 1) * likelihood(b, 0) > likelihood(a, 0) * likelihood(b, 1) for a, b in asked]
    assert found.swapped(asked).tolist() == expected
    odds = sum(found.log_odds[f] for f in features(["w1"]) if f in known)
    assert exp(odds) == pytest.approx(likelihood(["w1"], 0) / likelihood(["w1"], 1))
