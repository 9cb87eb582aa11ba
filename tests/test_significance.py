"""Statistics over seeds and between models, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from ptm_lightning.significance import over_seeds, randomisation_p, student_t, t_probability


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 101])
def test_student_t(freedom: int):
    for t in (0.1, 1.0, 2.5, 12.0):
        assert t_probability(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-12)
    for confidence in (0.5, 0.95, 0.999):
        assert student_t(freedom, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_over_seeds():
    values = [0.81, 0.84, 0.79, 0.86]
    mean, deviation, margin = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (mean - margin, mean + margin) == pytest.approx((low, high))
    assert over_seeds([0.5])[0] == 0.5
    assert all(map(math.isnan, over_seeds([0.5])[1:]))
    assert over_seeds([0.5, 0.5])[1:] == (0, 0)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(10, 2), (7, 7), (3, 12), (0, 4), (40, 22)])
def test_of_right_and_wrong_answers_it_is_mcnemar_s(only_ours: int, only_theirs: int):
    ours = np.array([1.0] * (only_ours + 30) + [0.0] * (only_theirs + 5))
    theirs = np.array([0.0] * only_ours + [1.0] * 30 + [1.0] * only_theirs + [0.0] * 5)
    exact = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert randomisation_p(ours, theirs) == pytest.approx(exact, abs=0.015)


def test_against_every_exchange():
    random = np.random.default_rng(3)
    ours = random.normal(size=11)
    theirs = ours - random.normal(0.5, 1.0, size=11)
    exact = stats.permutation_test(
        (ours, theirs), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", n_resamples=np.inf,
        vectorized=True,
    ).pvalue  # fmt: skip
    assert randomisation_p(ours, theirs) == pytest.approx(exact, abs=0.015)
    assert randomisation_p(theirs, ours) == randomisation_p(ours, theirs)


def test_equal_models_and_ties():
    scores = np.array([0.1, 0.2, 0.3])
    assert randomisation_p(scores, scores) == 1
    assert randomisation_p(np.zeros(0), np.zeros(0)) == 1
    third = np.array([0.1, 0.2, 0.3, 0.4])
    assert randomisation_p(third, third - 0.1) == pytest.approx(2 / 16, abs=0.015)  # rounding makes no sum smaller


def test_the_draws_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(1)
    ours, theirs = random.normal(size=(2, 50))
    whole = randomisation_p(ours, theirs)
    monkeypatch.setattr("ptm_lightning.significance._CELLS", 70)
    assert randomisation_p(ours, theirs, draws=500) == pytest.approx(whole, abs=0.06)
    small = randomisation_p(ours, theirs, draws=500)
    monkeypatch.undo()
    assert randomisation_p(ours, theirs, draws=500) == small
