"""Classification metrics, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from ptm_lightning.metrics.classification import (
    BINS,
    best_thresholds,
    calibration_error,
    classification_scores,
    confusion_matrices,
    confusion_matrix,
    multi_label_scores,
    regression_scores,
)

AVERAGES = ("macro", "micro", "weighted")


def drawn(count: int, labels: int, seed: int, skew: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(labels, 0.2)) if skew else np.full(labels, 1 / labels)
    right = random.choice(labels, count, p=weights)
    logits = random.normal(size=(count, labels)) + 1.5 * np.eye(labels)[right]
    return torch.tensor(logits).float().softmax(dim=-1), torch.tensor(right)


CASES = {
    "balanced": drawn(200, 4, 0),
    "two labels": drawn(100, 2, 1),
    "rare labels": drawn(60, 12, 2, skew=True),
    "one example": drawn(1, 3, 3),
    "one label": (drawn(20, 3, 4)[0], torch.zeros(20, dtype=torch.long)),
    "two labels, one true": (drawn(20, 2, 5)[0], torch.ones(20, dtype=torch.long)),
    "two labels, one predicted": (torch.tensor([[0.9, 0.1]] * 10), torch.tensor([0] * 9 + [1])),
    "two labels, one true and predicted": (torch.tensor([[0.9, 0.1]] * 10), torch.zeros(10, dtype=torch.long)),
    "ties": (torch.full((30, 3), 1 / 3), torch.arange(30) % 3),
}


@pytest.mark.parametrize("case", CASES)
def test_single_label(case: str):
    probabilities, labels = CASES[case]
    ours = classification_scores(probabilities, labels)
    predicted = probabilities.argmax(dim=-1)
    for average in AVERAGES:
        expected = metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert ours[f"{name}_{average}"] == pytest.approx(value, abs=1e-9)
    assert ours["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, predicted), abs=1e-6)
    there = [c for c in range(probabilities.shape[1]) if 0 < int((labels == c).sum()) < len(labels)]
    if probabilities.shape[1] == 2:
        there = [1] if there else []
    areas = [metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in there]
    assert ours.get("auroc", 0) == pytest.approx(np.mean(areas) if areas else 0, abs=1e-6)


def test_confusion_matrix():
    probabilities, labels = CASES["rare labels"]
    predicted = probabilities.argmax(dim=-1)
    expected = metrics.confusion_matrix(labels, predicted, labels=range(12))
    assert confusion_matrix(predicted, labels, 12).numpy().tolist() == expected.tolist()


def expected_error(chances: np.ndarray, came_true: np.ndarray) -> float:
    """Of scikit-learn's curve, with the bins' shares."""
    share, mean = calibration_curve(came_true, chances, n_bins=BINS)
    size = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], chances))
    return float((size[size > 0] / len(chances) * abs(share - mean)).sum())


@pytest.mark.parametrize("case", CASES)
def test_calibration_error_is_that_of_scikit_learns_curve(case: str):
    probabilities, labels = CASES[case]
    sure, predicted = probabilities.double().max(dim=-1)
    expected = expected_error(sure.numpy(), (predicted == labels).numpy())
    assert classification_scores(probabilities, labels)["calibration_error"] == pytest.approx(expected, abs=1e-9)


def test_calibration_error_at_the_ends_of_bins():
    chances, came_true = torch.tensor([0.0, 0.2, 0.4, 1.0]).double(), torch.tensor([0, 1, 0, 1])
    assert calibration_error(chances, came_true) == pytest.approx((0.8 + 0.4) / 4)
    assert calibration_error(chances, came_true) == pytest.approx(expected_error(chances.numpy(), came_true.numpy()))


def test_calibration_error_by_a_loop():
    probabilities, labels = CASES["balanced"]
    sure, predicted = probabilities.max(dim=-1)
    error = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            accuracy = (predicted == labels)[inside].float().mean()
            error += float(inside.float().mean() * (accuracy - sure[inside].mean()).abs())
    assert classification_scores(probabilities, labels)["calibration_error"] == pytest.approx(error, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_several_labels(seed: int):
    random = np.random.default_rng(seed)
    labels = (random.random((80, 5)) < [0.5, 0.1, 0.0, 1.0, 0.3]).astype(int)
    probabilities = torch.tensor(random.random((80, 5)))
    ours = multi_label_scores(probabilities, torch.tensor(labels), torch.full((5,), 0.5))
    predicted = (probabilities.numpy() >= 0.5).astype(int)
    for average in AVERAGES:
        expected = metrics.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert ours[f"{name}_{average}"] == pytest.approx(value, abs=1e-9)
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    areas = [metrics.roc_auc_score(labels[:, c], probabilities[:, c]) for c in (0, 1, 4)]
    assert ours["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    by_label = [metrics.matthews_corrcoef(*pair) for pair in zip(labels.T, predicted.T, strict=True)]
    assert ours["mcc"] == pytest.approx(np.mean(by_label), abs=1e-9) != 0
    expected_ece = expected_error(probabilities.numpy().ravel(), labels.ravel())
    assert ours["calibration_error"] == pytest.approx(expected_ece, abs=1e-9) != 0
    theirs = metrics.multilabel_confusion_matrix(labels, predicted)  # no comes first
    assert confusion_matrices(torch.tensor(predicted), torch.tensor(labels)).tolist() == theirs[:, ::-1, ::-1].tolist()


@pytest.mark.parametrize(
    ("labels", "chances", "mcc"),
    [
        ([[1, 0]], [[0.9, 0.1]], 0.0),  # one example has no spread
        ([[1, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.1]], 1.0),  # the second label is never there, nor predicted
        ([[1, 0], [0, 0]], [[0.9, 0.9], [0.2, 0.1]], 0.5),  # ... but predicted once
        ([[1, 1], [0, 1]], [[0.1, 0.9], [0.9, 0.9]], -0.5),  # the second is always there
        ([[0, 0], [0, 0]], [[0.1, 0.1], [0.2, 0.2]], 0.0),  # nothing is there, nor predicted
    ],
)
def test_several_labels_of_which_some_never_occur(labels: list[list[int]], chances: list[list[float]], mcc: float):
    ours = multi_label_scores(torch.tensor(chances), torch.tensor(labels), torch.full((2,), 0.5))
    predicted = (np.array(chances) >= 0.5).astype(int)
    there = [c for c in range(2) if np.array(labels)[:, c].any() or predicted[:, c].any()]
    by_label = [metrics.matthews_corrcoef(np.array(labels)[:, c], predicted[:, c]) for c in there]
    assert ours["mcc"] == pytest.approx(np.mean(by_label) if there else 0.0, abs=1e-9) == mcc
    f1 = metrics.f1_score(labels, predicted, average="macro", zero_division=0, labels=there or None)
    assert ours["f1_macro"] == pytest.approx(f1)


def test_two_labels_of_which_each_row_has_one_are_still_two():
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    probabilities = np.array([[0.9, 0.8], [0.8, 0.9], [0.1, 0.1], [0.2, 0.3]])
    ours = multi_label_scores(torch.tensor(probabilities), torch.tensor(labels), torch.full((2,), 0.5))
    assert ours["auroc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, average="macro"))


def test_thresholds_have_the_highest_f1_of_all():
    random = np.random.default_rng(0)
    labels = (random.random((60, 4)) < [0.5, 0.2, 0.0, 1.0]).astype(int)
    probabilities = torch.tensor((random.random((60, 4)) + 0.5 * labels).round(1) / 1.6)  # with ties
    found = best_thresholds(probabilities, torch.tensor(labels))
    for c in (0, 1, 3):
        ours = metrics.f1_score(labels[:, c], probabilities[:, c] >= found[c])
        tried = [metrics.f1_score(labels[:, c], probabilities[:, c] >= t) for t in np.linspace(0, 1, 201)]
        assert ours == pytest.approx(max(tried))
    assert found[2] == 0.5


def test_numbers():
    random = np.random.default_rng(0)
    values = random.normal(size=50).round(1)  # ties
    predictions = values + random.normal(size=50)
    ours = regression_scores(torch.tensor(predictions).float(), torch.tensor(values).float())
    ranks = [np.array([np.mean(np.flatnonzero(np.sort(x) == one)) for one in x]) for x in (predictions, values)]
    assert ours["pearson"] == pytest.approx(np.corrcoef(predictions, values)[0, 1], abs=1e-5)
    assert ours["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-5)
    assert ours["mae"] == pytest.approx(metrics.mean_absolute_error(values, predictions), abs=1e-5)


def test_numbers_that_dont_vary_have_no_correlation():
    assert set(regression_scores(torch.ones(5), torch.arange(5.0))) == {"mae"}
    assert set(regression_scores(torch.ones(1), torch.ones(1))) == {"mae"}
