"""Validation at regular steps."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.callbacks import RegularValidation
from tiny_mlm import make, trainer_of

from ptm_lightning.errors import UserError


class Validations(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.steps.append(trainer.global_step)


def run(corpus: Path, folder: Path, *callbacks: Callback, resume: Path | None = None, **changes: Any) -> list[int]:
    seen = Validations()
    task, data = make(corpus, batch_tokens=1024)
    trainer_of(folder, *callbacks, seen, **changes).fit(task, data, ckpt_path=resume, weights_only=True)
    assert data.plan.steps(0) == (14 if changes.get("accumulate_grad_batches", 1) == 1 else 7)
    return seen.steps


@pytest.mark.parametrize(
    ("steps", "times", "expected"),
    [
        (25, 4, [7, 14, 21, 25]),
        (24, 3, [8, 16, 24]),
        (12, 5, [3, 6, 9, 12]),
        (22, 1, [22]),
        (3, 10, [1, 2, 3]),
    ],
)
def test_distances_are_equal_over_epochs_and_the_end_is_validated(
    corpus: Path, tmp_path: Path, steps: int, times: int, expected: list[int]
):
    assert run(corpus, tmp_path, RegularValidation(times), max_steps=steps) == expected


def test_micro_batches_are_not_steps(corpus: Path, tmp_path: Path):
    assert run(corpus, tmp_path, RegularValidation(3), max_steps=13, accumulate_grad_batches=2) == [5, 10, 13]


def test_a_limit_in_epochs_is_known_too(corpus: Path, tmp_path: Path):
    assert run(corpus, tmp_path, RegularValidation(2), max_steps=-1, max_epochs=2) == [14, 28]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, [5, 10, 15, 20, 25, 29]),
        ({"val_check_interval": 5}, [5, 10, 19, 24, 29]),
        ({"check_val_every_n_epoch": 2}, [28, 29]),
        ({"limit_val_batches": 0}, []),
    ],
)
def test_what_the_user_chose_stays_and_the_end_is_validated(
    corpus: Path, tmp_path: Path, chosen: dict[str, Any], expected: list[int]
):
    assert run(corpus, tmp_path, RegularValidation(10), max_steps=29, **chosen) == expected


def test_an_interval_longer_than_an_epoch_would_never_come(corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match="15: it is counted within an epoch, which has 14 batches"):
        run(corpus, tmp_path, RegularValidation(), max_steps=29, val_check_interval=15)
    assert run(corpus, tmp_path, RegularValidation(), max_steps=29, val_check_interval=14) == [14, 28, 29]


def test_a_resumed_run_validates_at_the_same_steps(corpus: Path, tmp_path: Path):
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = run(corpus, tmp_path, RegularValidation(4), saves, max_steps=25, enable_checkpointing=True)
    assert whole == [7, 14, 21, 25]
    for step in (6, 13, 15, 22, 24):
        resumed = run(corpus, tmp_path, RegularValidation(4), max_steps=25, resume=tmp_path / f"step={step}.ckpt")
        assert resumed == [due for due in whole if due > step]


def test_a_finished_run_that_is_made_longer_goes_on(corpus: Path, tmp_path: Path):
    saves = ModelCheckpoint(tmp_path, monitor="val/loss", save_top_k=-1, filename="{step}")
    run(corpus, tmp_path, RegularValidation(2), saves, max_steps=9, enable_checkpointing=True)
    assert run(corpus, tmp_path, RegularValidation(2), max_steps=21, resume=tmp_path / "step=9.ckpt") == [11, 21]


def test_at_least_once():
    with pytest.raises(UserError, match="times of RegularValidation is 0"):
        RegularValidation(0)
