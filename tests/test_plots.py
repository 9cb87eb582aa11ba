"""Figures as data and as files: their numbers are the metrics', and they are drawn without a screen."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from ptm_lightning.figures import Curves, Matrix, calibration, confusion, confusion_by_label, threshold_curve
from ptm_lightning.metrics.classification import BINS, classification_scores, majority_scores, reliability
from ptm_lightning.metrics.question_answering import Answered, answer_scores, f1_by_threshold
from ptm_lightning.plots import draw


@pytest.mark.parametrize("labels", [2, 5])
def test_the_reliability_diagram_is_that_of_the_calibration_error(labels: int):
    generator = torch.Generator().manual_seed(labels)
    chances = (4 * torch.randn(500, labels, generator=generator)).softmax(dim=-1)
    right = torch.randint(labels, (500,), generator=generator)
    sure, predicted = chances.max(dim=-1)
    confidence, accuracy, shares = reliability(sure, predicted == right)
    error = float((shares * (confidence - accuracy).abs()).sum())
    wanted = classification_scores(chances, right)["calibration_error"]
    assert error == wanted == pytest.approx(float(multiclass_calibration_error(chances, right, labels, BINS)), abs=1e-6)
    assert float(shares.sum()) == pytest.approx(1)
    assert all(0 <= low < high <= 1 for low, high in pairwise(confidence))
    figure = calibration(sure, predicted == right)
    assert figure.title == f"calibration error {wanted:.4f}"
    assert figure.lines["model"] == (confidence.tolist(), accuracy.tolist())


def test_probabilities_at_the_ends_have_a_bin():
    mean, came_true, shares = reliability(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 0]))
    assert (mean.tolist(), came_true.tolist(), shares.tolist()) == ([0.0, 1.0], [0.0, 0.5], [0.5, 0.5])


def test_the_majority_is_scored_as_scikit_learn_does():
    from sklearn.metrics import accuracy_score, f1_score

    labels = torch.tensor([0, 2, 2, 1, 2, 0, 2])
    said = [2] * 7
    assert majority_scores(labels, 2, 4) == {
        "accuracy_majority": pytest.approx(accuracy_score(labels, said)),
        "f1_macro_majority": pytest.approx(f1_score(labels, said, average="macro")),
    }


def test_f1_by_threshold_is_that_of_the_metrics():
    answered = [
        Answered(["a dog"], "dog", -2.0),
        Answered([], "cat", 1.0),
        Answered(["red cow"], "cow here", 1.0),
        Answered(["sea"], "sky", 0.5),
        Answered([], "sun", 3.0),
    ]
    thresholds, f1 = f1_by_threshold(answered)
    assert thresholds == [-2.0, 0.5, 1.0, 3.0]
    assert f1 == pytest.approx([answer_scores(answered, threshold)["f1"] for threshold in thresholds])
    assert threshold_curve(thresholds, f1, 0.5).lines["the one that is used"] == ([0.5, 0.5], [min(f1), max(f1)])
    assert threshold_curve(thresholds, f1, None).lines.keys() == {"all thresholds"}


def test_rows_of_the_confusion_are_the_right_labels():
    figure = confusion(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 0, 1]), ["no", "yes"])
    assert figure.counts == [[1, 2], [0, 1]]
    assert (figure.rows[0], figure.columns[0]) == ("label", "predicted")


def test_each_of_several_labels_has_two_rows_of_the_confusion():
    predicted, right = torch.tensor([[1, 0], [1, 0], [1, 1]]), torch.tensor([[1, 1], [0, 1], [1, 1]])
    figure = confusion_by_label(predicted, right, ["a", "b"])
    assert figure.rows[1] == ["a", "not a", "b", "not b"]
    assert figure.columns[1] == ("predicted", "not predicted")
    assert figure.counts == [[2, 0], [1, 0], [1, 2], [0, 0]]


@pytest.mark.parametrize("labels", [2, 30, 60])
def test_figures_are_png_files(tmp_path: Path, labels: int):
    names = [f"标签 $\\x_{n}$" for n in range(labels)]  # in a script that the font lacks; no mathematics
    draw(Matrix("t", ("label", names), ("predicted", names), torch.eye(labels).int().tolist()), tmp_path / "a/m.png")
    draw(Curves("t", "x", "y", {"one": ([0.0, 1.0], [1.0, 0.5]), "two": ([], [])}), tmp_path / "a/c.png")
    for path in (tmp_path / "a").iterdir():
        with Image.open(path) as image:
            colours = len(set(image.convert("RGB").getdata()))
        assert colours > 2, path


def test_no_screen_is_needed(tmp_path: Path):
    script = (
        "from pathlib import Path; from ptm_lightning.figures import Curves; from ptm_lightning.plots import draw\n"
        "draw(Curves('t', 'x', 'y', {'one': ([0.0, 1.0], [1.0, 0.5])}), Path('x.png'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
