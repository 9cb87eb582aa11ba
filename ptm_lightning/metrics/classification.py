"""Metrics of classification and regression over a whole evaluation, as scikit-learn defines them."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import binary_auroc

BINS = 15
"""Of the calibration error. Guo et al., 2017, https://arxiv.org/abs/1706.04599"""


def classification_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Precision, recall, F1, Matthews' correlation, the area under the ROC curve, and the calibration error.

    Args:
        probabilities: (n, L) of each label.
        labels: (n,) the right ones.

    Returns:
        Metrics by name. A label that neither occurs nor is predicted doesn't count in an average. The area under the
        curve is that of label 1, or with more labels the mean of one against the rest over those that occur.
    """
    count = probabilities.shape[1]
    sure, predicted = probabilities.max(dim=-1)
    matrix = confusion_matrix(predicted, labels, count)
    scores = _averages(matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1))
    scores["mcc"] = matthews_correlation(matrix)
    scores["calibration_error"] = calibration_error(sure, predicted == labels)
    return scores | _auroc(probabilities, functional.one_hot(labels, count), [1] if count == 2 else range(count))


def best_thresholds(probabilities: Tensor, labels: Tensor) -> list[float]:
    """From which probability on each label is best predicted: the highest F1 on these examples.

    Args:
        probabilities: (n, L) of each label.
        labels: (n, L) 0 or 1.

    Returns:
        One for each label, in the middle between two probabilities; 0.5 for a label that doesn't occur.
    """
    found = []
    for chances, right in zip(probabilities.double().T, labels.double().T, strict=True):
        ranked, order = chances.sort(descending=True)
        hits = right[order].cumsum(0)
        f1 = 2 * hits / (torch.arange(1, len(ranked) + 1) + right.sum())
        ends = torch.cat([ranked[:-1] > ranked[1:], torch.ones(1, dtype=torch.bool)])  # equal ones are taken together
        best = int(torch.where(ends, f1, -1.0).argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else torch.zeros(())
        found.append(float(ranked[best] + below) / 2 if right.any() else 0.5)
    return found


def multi_label_scores(probabilities: Tensor, labels: Tensor, threshold: Tensor) -> dict[str, float]:
    """The same for any number of labels at once.

    Accuracy is that of whole sets, Matthews' correlation the mean of that of each label by itself, and the calibration
    error is taken over every label of every example: how probable it is, and whether it is there.

    Args:
        probabilities: (n, L) of each label.
        labels: (n, L) 0 or 1.
        threshold: (L,) from where on each is predicted.

    Returns:
        Metrics by name. A label that neither occurs nor is predicted doesn't count in an average.
    """
    predicted = (probabilities >= threshold).long()
    matrices = confusion_matrices(predicted, labels)
    scores = _averages(matrices[:, 0, 0], matrices[:, :, 0].sum(dim=1), matrices[:, 0].sum(dim=1))
    scores["accuracy"] = float((predicted == labels).all(dim=1).float().mean())
    there = [matthews_correlation(matrix) for matrix in matrices if matrix[1, 1] < len(labels)]
    scores["mcc"] = sum(there) / max(1, len(there))
    scores["calibration_error"] = calibration_error(probabilities.flatten(), labels.flatten())
    return scores | _auroc(probabilities, labels, range(labels.shape[1]))


def regression_scores(predictions: Tensor, values: Tensor) -> dict[str, float]:
    """Pearson's and Spearman's correlation, and the mean absolute error.

    Args:
        predictions: (n,)
        values: (n,) the right ones.

    Returns:
        Metrics by name; a correlation only where both sides vary.
    """
    scores = {"mae": float((predictions - values).abs().mean())}
    if len(values) > 1 and predictions.std() > 0 and values.std() > 0:
        predictions, values = predictions.double(), values.double()
        scores["pearson"] = float(pearson_corrcoef(predictions, values))
        scores["spearman"] = float(spearman_corrcoef(predictions, values))
    return scores


def confusion_matrix(predicted: Tensor, labels: Tensor, count: int) -> Tensor:
    """(L, L): how often the label of a row was predicted as that of a column."""
    return torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)


def confusion_matrices(predicted: Tensor, labels: Tensor) -> Tensor:
    """One for each label of several at once: how often it was there or not, and was predicted or not.

    Args:
        predicted: (n, L) 0 or 1.
        labels: (n, L) the right ones, 0 or 1.

    Returns:
        (L, 2, 2): by row whether it was there, by column whether it was predicted; yes comes first.
    """
    right, guessed, actual = (values.sum(dim=0) for values in (predicted * labels, predicted, labels))
    rest = len(labels) - guessed - actual + right
    return torch.stack([right, actual - right, guessed - right, rest], dim=-1).view(-1, 2, 2)


def matthews_correlation(matrix: Tensor) -> float:
    """Matthews' correlation coefficient of any number of labels; 0 where either side has but one label.

    Args:
        matrix: (L, L) a `confusion_matrix`.

    References:
        Gorodkin, 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    matrix = matrix.double()
    right, total, predicted, true = matrix.diagonal().sum(), matrix.sum(), matrix.sum(dim=0), matrix.sum(dim=1)
    spread = ((total**2 - predicted @ predicted) * (total**2 - true @ true)).sqrt()
    return float((right * total - predicted @ true) / spread) if spread > 0 else 0.0


def majority_scores(labels: Tensor, majority: int, count: int) -> dict[str, float]:
    """Accuracy and macro F1 of saying the same label always.

    Args:
        labels: (n,) the right ones.
        majority: What is said.
        count: Labels in all.
    """
    matrix = confusion_matrix(torch.full_like(labels, majority), labels, count)
    scores = _averages(matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1))
    return {"accuracy_majority": scores["f1_micro"], "f1_macro_majority": scores["f1_macro"]}


def calibration_error(chances: Tensor, came_true: Tensor) -> float:
    """How far probabilities are from how often they come true, between 0 and 1: the mean over `reliability`'s bins."""
    mean, share, weight = reliability(chances, came_true)
    return float((weight * (mean - share).abs()).sum())


def reliability(chances: Tensor, came_true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How probable things are said to be, and how often they come true, by bins of their probability.

    A bin holds its upper end, as in the paper and in scikit-learn's `calibration_curve`.

    Args:
        chances: (n,) probabilities.
        came_true: (n,) 0 or 1.

    Returns:
        (b,) the mean probability, (b,) the share that came true, (b,) the share of all n; of the bins that have any.
    """
    chances = chances.double()
    number = torch.bucketize(chances, torch.arange(1, BINS).double() / BINS)
    size, summed, true = (
        torch.zeros(BINS, dtype=torch.double).index_add_(0, number, values)
        for values in (torch.ones_like(chances), chances, came_true.double())
    )
    there = size > 0
    return (summed / size)[there], (true / size)[there], size[there] / len(chances)


def _averages(right: Tensor, predicted: Tensor, actual: Tensor) -> dict[str, float]:
    """Macro, micro and weighted averages of precision, recall and F1 over labels."""
    right, predicted, actual = right.double(), predicted.double(), actual.double()
    values = {
        "precision": _divided(right, predicted),
        "recall": _divided(right, actual),
        "f1": _divided(2 * right, predicted + actual),
    }
    there = (predicted + actual) > 0
    totals = {"precision": predicted.sum(), "recall": actual.sum(), "f1": (predicted.sum() + actual.sum()) / 2}
    scores: dict[str, float] = {}
    for name, value in values.items():
        scores[f"{name}_macro"] = float(_divided(value.sum(), there.double().sum()))
        scores[f"{name}_micro"] = float(_divided(right.sum(), totals[name]))
        scores[f"{name}_weighted"] = float(_divided((value * actual).sum(), actual.sum()))
    return scores


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """A / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp(min=1e-12), torch.zeros_like(a))


def _auroc(probabilities: Tensor, labels: Tensor, columns: Iterable[int]) -> dict[str, float]:
    """The mean area over those of some labels that occur and don't occur everywhere."""
    some = [c for c in columns if 0 < int(labels[:, c].sum()) < len(labels)]
    if not some:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        areas = [float(binary_auroc(probabilities[:, c].double(), labels[:, c])) for c in some]
    return {"auroc": sum(areas) / len(areas)}
