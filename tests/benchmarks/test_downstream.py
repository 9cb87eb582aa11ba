from dataclasses import replace
from pathlib import Path

import downstream
import measuring
import pytest
from clock import Job
from test_bench import needs_accelerate


def test_fine_tuning_agrees_with_transformers(downstream_job: Job) -> None:
    found = downstream.agree(downstream_job)
    assert found["loss"] <= measuring.TOLERANCES["fp32"]["loss"]
    assert found["gradient"] <= measuring.TOLERANCES["fp32"]["gradient"]


def test_rows_of_like_length_stand_together(downstream_job: Job) -> None:
    assert downstream.ours(downstream_job)["padding"] < 0.1


@needs_accelerate
def test_the_peer_pads_as_it_is_told(downstream_job: Job) -> None:
    padding = {what: downstream.WORK[what](downstream_job)["padding"] for what in ("trainer", "grouped")}
    assert padding["grouped"] < padding["trainer"]


def test_labels_are_those_of_the_pipeline(downstream_job: Job) -> None:
    for what in ("predict", "pipeline"):
        assert downstream.WORK[what](downstream_job)["answers_per_second"] > 0
    assert downstream.same_answers(Path(downstream_job.folder), "predict", "pipeline") == 1


def test_summaries_are_those_of_generate(downstream_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "ANSWERING_STEPS", 2)
    monkeypatch.setattr(downstream, "PREDICTED", 10)
    downstream.prepare_answers(replace(downstream_job, text=["builtin:summaries"]))
    for what in ("answer", "generate"):
        assert downstream.WORK[what](downstream_job)["answers_per_second"] > 0
    assert downstream.same_answers(Path(downstream_job.folder), "answer", "generate") == 1
