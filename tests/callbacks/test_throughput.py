"""Throughput, and the timer below it."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback
from ptm_lightning.callbacks import CSVRecord, FiniteLoss, Throughput
from ptm_lightning.callbacks import step_timer as step_timer_module
from ptm_lightning.callbacks.step_timer import StepTimer
from tiny_mlm import make, trainer_of


class Watch(StepTimer):
    def on_timed_step(self, trainer: Any, module: Any) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(step_timer_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_steps_are_timed_with_their_waiting_and_without_validation_and_checkpoints(clock: SimpleNamespace):
    timer, trainer = Watch(), SimpleNamespace(global_step=0)
    timer.on_train_start(trainer, None)

    def micro_batch(wait: float, work: float, *, step: int) -> None:
        clock.now += wait
        timer.on_train_batch_start(trainer, None, None, 0)
        clock.now += work
        trainer.global_step = step
        timer.on_train_batch_end(trainer, None, None, {"step_counts": {"tokens": 600 + 100 * step}}, 0)

    assert timer.tokens_per_second is timer.step_seconds is timer.data_wait_share is None
    micro_batch(5.0, 1.0, step=0)  # what comes before the first batch is no waiting
    micro_batch(0.5, 2.0, step=1)
    timer.on_validation_start(trainer, None)
    micro_batch(30.0, 1.0, step=1)
    micro_batch(0.0, 1.0, step=2)
    timer.on_save_checkpoint(trainer, None, {})
    micro_batch(7.0, 1.5, step=2)
    micro_batch(0.5, 0.5, step=3)

    assert [tuple(step) for step in timer.timed] == [(700, 3.5, 0.5), (800, 2.0, 0.0), (900, 2.5, 0.5)]
    assert timer.other_seconds == 37.0
    assert timer.tokens_per_second == pytest.approx(2400 / 8)
    assert timer.step_seconds == pytest.approx(8 / 3)
    assert timer.data_wait_share == pytest.approx(1 / 8)


def test_the_oldest_steps_are_forgotten(clock: SimpleNamespace):
    timer, trainer = Watch(), SimpleNamespace(global_step=0)
    timer.on_train_start(trainer, None)
    for step in range(1, 61):
        timer.on_train_batch_start(trainer, None, None, 0)
        clock.now += 100.0 if step <= 10 else 1.0
        trainer.global_step = step
        timer.on_train_batch_end(trainer, None, None, {"step_counts": {"tokens": 10}}, 0)
    assert timer.step_seconds == 1.0


def test_the_log_has_speeds_where_the_task_logs(corpus: Path, tmp_path: Path):
    seen: list[int] = []

    class Tokens(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch["counts"]["tokens"])

    throughput = Throughput()
    task, data = make(corpus)
    trainer_of(
        tmp_path, throughput, Tokens(), logger=CSVRecord(tmp_path), log_every_n_steps=5, accumulate_grad_batches=2
    ).fit(task, data)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    speeds = [row for row in rows if row["metric"].startswith("speed/")]
    names = ["speed/tokens_per_second", "speed/step_seconds", "speed/data_wait_share"]
    assert [row["metric"] for row in speeds] == names * 2
    assert [row["step"] for row in speeds[::3]] == ["5", "10"]
    tokens = {row["step"]: row["tokens"] for row in rows if row["metric"] == "train/loss"}
    assert all(row["tokens"] == tokens[row["step"]] for row in speeds)
    assert all(0 <= float(row["value"]) < 1 for row in speeds if row["metric"] == "speed/data_wait_share")

    by_name = {row["metric"]: float(row["value"]) for row in speeds[3:]}
    assert by_name["speed/tokens_per_second"] * by_name["speed/step_seconds"] * 5 == pytest.approx(sum(seen[10:20]))
    assert throughput.tokens_per_second is not None


def test_with_an_interval_of_0_nothing_is_logged_in_training(corpus: Path, tmp_path: Path):
    task, data = make(corpus)
    trainer_of(tmp_path, Throughput(), FiniteLoss(), logger=CSVRecord(tmp_path), log_every_n_steps=0).fit(task, data)
    assert not (tmp_path / "metrics.csv").exists()
