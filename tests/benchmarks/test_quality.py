from dataclasses import replace

import numpy as np
import pytest
import quality
import torch
from clock import Job
from test_bench import needs_accelerate


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "LEARNING_STEPS", 2)


@needs_accelerate
def test_ours_and_the_peer_are_judged_on_the_same_rows(downstream_job: Job) -> None:
    found = {what: quality.WORK[what](replace(downstream_job, what=what)) for what in ("ours", "grouped")}
    assert found["ours"]["rows"] == found["grouped"]["rows"] > 20
    assert found["ours"]["steps"] == found["grouped"]["steps"] == 5
    for what, judged in found.items():
        right = quality.right_or_wrong(downstream_job, what)
        assert right.mean() == pytest.approx(judged["accuracy"])
        assert set(np.unique(right)) <= {0.0, 1.0}


def test_the_judge_counts_what_is_right(downstream_job: Job) -> None:
    class Always(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **others: torch.Tensor) -> "Always":
            self.logits = torch.nn.functional.one_hot(torch.zeros(len(input_ids), dtype=torch.int64), 9).float()
            return self

    rows = quality.held_out(downstream_job)
    share = sum(label == 0 for _, label in rows) / len(rows)
    assert quality._judge(replace(downstream_job, what="ours"), Always())["accuracy"] == pytest.approx(share)
