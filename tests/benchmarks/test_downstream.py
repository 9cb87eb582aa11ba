from dataclasses import replace
from pathlib import Path

import bench
import downstream
import peers
import pytest
from clock import Job
from test_bench import needs_accelerate


@pytest.fixture(scope="module")
def job(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(
        "prepare",
        text=["builtin:modules"],
        folder=str(tmp_path_factory.mktemp("downstream")),
        steps=1,
        max_length=48,
        vocab_size=600,
        size="tiny",
        cache=str(cache),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        for module in (peers, downstream):
            patch.setattr(module, "prepare_cpu", lambda *args, **kwargs: {})
        assert downstream.prepare(job)["labels"] > 5
        yield job


def test_fine_tuning_agrees_with_transformers(job: Job) -> None:
    found = downstream.agree(job)
    assert found["loss"] <= bench.TOLERANCES["fp32"]["loss"]
    assert found["gradient"] <= bench.TOLERANCES["fp32"]["gradient"]


def test_rows_of_like_length_stand_together(job: Job) -> None:
    assert downstream.ours(job)["padding"] < 0.1


@needs_accelerate
def test_the_peer_pads_as_it_is_told(job: Job) -> None:
    padding = {what: downstream.WORK[what](job)["padding"] for what in ("trainer", "grouped")}
    assert padding["grouped"] < padding["trainer"]


def test_labels_are_those_of_the_pipeline(job: Job) -> None:
    for what in ("predict", "pipeline"):
        assert downstream.WORK[what](job)["answers_per_second"] > 0
    assert downstream.same_answers(Path(job.folder), "predict", "pipeline") == 1


def test_summaries_are_those_of_generate(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "ANSWERING_STEPS", 2)
    monkeypatch.setattr(downstream, "PREDICTED", 10)
    downstream.prepare_answers(replace(job, text=["builtin:summaries"]))
    for what in ("answer", "generate"):
        assert downstream.WORK[what](job)["answers_per_second"] > 0
    assert downstream.same_answers(Path(job.folder), "answer", "generate") == 1
