"""The area under the ROC curve over many batches, against counting pairs."""

import pytest
import torch

from ptm_lightning.terms import Auroc, Ratio, RunningSums, Term


def area(logits: torch.Tensor, positive: torch.Tensor) -> float:
    higher, lower = logits[positive][:, None], logits[~positive]
    return float(((higher > lower).double() + 0.5 * (higher == lower)).mean())


def test_auroc_counts_pairs_over_all_batches():
    torch.manual_seed(0)
    positive = torch.rand(900) < 0.1
    logits = (torch.randn(900) + positive * 1.5).mul(64).round() / 64 + 1 / 256  # no two of them differ within a bin
    sums = RunningSums()
    for part in (slice(0, 1), slice(1, 300), slice(300, 900)):
        sums.add({"auroc": Auroc(logits[part], positive[part])})
    assert sums.means("val") == {"val/auroc": pytest.approx(area(logits, positive), abs=1e-12)}
    parts = [area(logits[:300], positive[:300]), area(logits[300:], positive[300:])]
    assert sums.means("val")["val/auroc"] != pytest.approx(sum(parts) / 2, abs=1e-4)


def test_auroc_of_few_bins_and_of_extremes():
    cases = {
        (-100.0, 100.0): 1.0,
        (100.0, -100.0): 0.0,
        (50.0, 60.0): 0.5,  # both beyond the last bin
        (float("-inf"), float("nan")): 1.0,
    }
    for logits, expected in cases.items():
        sums = RunningSums()
        sums.add({"auroc": Auroc(torch.tensor(logits), torch.tensor([False, True]))})
        assert sums.means("val") == {"val/auroc": expected}, logits


def test_auroc_without_positives_is_left_out():
    sums = RunningSums()
    sums.add({"loss": Term(torch.tensor(3.0), 2), "auroc": Auroc(torch.zeros(4), torch.zeros(4, dtype=torch.bool))})
    assert sums.means("val") == {"val/loss": 1.5}


def test_auroc_survives_the_checkpoint():
    sums, again = RunningSums(), RunningSums()
    sums.add({"auroc": Auroc(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([False, True, False]))})
    sums.add({"hits": Ratio(torch.tensor(1), 4)})
    again.restore(sums.state(), torch.device("cpu"))
    for each in (sums, again):
        each.add({"auroc": Auroc(torch.tensor([3.0]), torch.tensor([True]))})
    assert again.means("val") == sums.means("val") == {"val/auroc": 0.75, "val/hits": 0.25}
