"""Budgets of tokens and hours."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.callbacks import Budget, RegularValidation
from ptm_lightning.callbacks import budget as budget_module
from ptm_lightning.callbacks import step_timer as step_timer_module
from tiny_mlm import make, trainer_of

from ptm_lightning.errors import UserError
from ptm_lightning.optim import schedule_factor


class Notes(Callback):
    """The tokens and the rate of each step."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tokens.append(batch["step_counts"]["tokens"])


class Clock(Callback):
    """A clock that training moves: each batch takes `batch_seconds`, each validation `validation_seconds`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.batch_seconds, self.validation_seconds = 1.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.now += self.batch_seconds

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.now += self.validation_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(step_timer_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(budget_module, "device_speed", lambda device, dtype: 1e10)
    return clock


def fit(
    corpus: Path, folder: Path, *callbacks: Callback, resume: Path | None = None, **changes: Any
) -> tuple[Any, Trainer]:
    keys = ("task", "layout", "batch_tokens")
    task, data = make(corpus, **{key: changes.pop(key) for key in keys if key in changes})
    trainer = trainer_of(folder, *callbacks, **changes)
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    return task, trainer


def equal(one: Any, other: Any) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_tokens_end_the_run_at_the_first_step_that_reaches_them(corpus: Path, tmp_path: Path, accumulate: int):
    notes = Notes()
    task, trainer = fit(
        corpus,
        tmp_path,
        Budget(max_tokens=20_000),
        notes,
        max_steps=-1,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
    )
    by_step = notes.tokens[::accumulate]
    assert sum(by_step) >= 20_000 > sum(by_step[:-1])
    assert task.tokens_seen == sum(by_step)
    assert trainer.global_step == task.total_steps == trainer.max_steps == len(by_step)


def test_a_budget_of_tokens_is_the_same_run_as_one_of_steps(corpus: Path, tmp_path: Path):
    by_tokens, trainer = fit(corpus, tmp_path, Budget(max_tokens=6_000), max_steps=-1)
    by_steps, _ = fit(corpus, tmp_path, max_steps=trainer.global_step)
    assert 5 < trainer.global_step < 20
    assert equal(by_tokens, by_steps)


def test_it_goes_on_over_epochs(corpus: Path, tmp_path: Path):
    task, trainer = fit(corpus, tmp_path, Budget(max_tokens=90_000), max_steps=-1, batch_tokens=4096)
    assert trainer.current_epoch >= 1
    assert task.tokens_seen >= 90_000


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_steps": 4}, 4),
        ({"max_steps": 500}, 3),
        ({"max_steps": -1, "max_epochs": 50}, 3),
        ({"max_steps": -1, "max_epochs": 1, "limit_train_batches": 2}, 2),
    ],
)
def test_the_smaller_limit_counts(corpus: Path, tmp_path: Path, limits: dict[str, int], expected: int):
    tokens = 100_000 if expected == 4 else 1_200
    task, trainer = fit(corpus, tmp_path, Budget(max_tokens=tokens), **limits)
    assert trainer.global_step == task.total_steps == expected


def test_steps_are_counted_in_the_layout_that_the_network_can_take(corpus: Path, tmp_path: Path):
    """DeBERTa can't isolate packed documents, which is known only when there is a network."""
    notes = Notes()
    task = {"architecture": "deberta-v2"}
    _, trainer = fit(corpus, tmp_path, Budget(max_tokens=3_000), notes, task=task, layout="packed", max_steps=-1)
    assert sum(notes.tokens) >= 3_000 > sum(notes.tokens[:-1])
    assert trainer.datamodule.layout == "rows"  # type: ignore[attr-defined]


def test_hours_become_steps_once(corpus: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture):
    """39 s at 1 s a step: after 4 steps, 97 % of the other 35 s make 33 more."""
    budget, notes = Budget(max_hours=39 / 3600), Notes()
    task, trainer = fit(corpus, tmp_path, budget, notes, clock, max_steps=-1, limit_val_batches=0)
    assert budget.hour_steps == trainer.max_steps == task.total_steps == trainer.global_step == 37
    assert not budget.undecided
    assert clock.now - 1000.0 <= 39
    assert "makes 37 steps" in caplog.text
    final = [schedule_factor("linear", step, 37, 0.06) * task.peak_rate for step in range(37)]
    assert all(rate <= right for rate, right in zip(notes.rates[:5], final, strict=False))
    assert notes.rates[5:] == pytest.approx(final[5:])


def test_slow_first_steps_are_not_measured(corpus: Path, tmp_path: Path, clock: Clock):
    class Slow(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock.batch_seconds = 4.0 if trainer.global_step < 3 else 0.5

    budget = Budget(max_hours=395 / 3600)
    fit(corpus, tmp_path, budget, Slow(), clock, max_steps=60, limit_val_batches=0)
    # 20 s are over after step 19 (3 * 4 + 16 * 0.5), of which only the fast steps were measured.
    assert budget.hour_steps == 19 + int(375 * 0.97 / 0.5)


def test_other_limits_still_count(corpus: Path, tmp_path: Path, clock: Clock):
    _, trainer = fit(corpus, tmp_path, Budget(max_hours=39 / 3600), clock, max_steps=9, limit_val_batches=0)
    assert trainer.global_step == 9
    _, trainer = fit(
        corpus, tmp_path, Budget(max_tokens=3_000, max_hours=39 / 3600), clock, max_steps=-1, limit_val_batches=0
    )
    assert trainer.global_step < 10


def test_validations_are_part_of_the_hours(corpus: Path, tmp_path: Path, clock: Clock):
    """The whole validation before training tells that one takes 3 s: 35 s * 97 % - 4 * 3 s are left for steps."""
    clock.validation_seconds = 3.0
    budget, regular = Budget(max_hours=39 / 3600), RegularValidation(4)
    validated: list[int] = []

    class Validations(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                validated.append(trainer.global_step)

    _, trainer = fit(corpus, tmp_path, budget, regular, Validations(), clock, max_steps=-1, num_sanity_val_steps=-1)
    assert trainer.global_step == budget.hour_steps == 4 + 21
    assert validated == [7, 14, 21, 25]
    assert clock.now - 1003.0 <= 39


def test_resume_keeps_the_number_of_steps(corpus: Path, tmp_path: Path, clock: Clock):
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole, _ = fit(
        corpus, tmp_path, Budget(max_hours=39 / 3600), clock, saves, max_steps=-1, limit_val_batches=0,
        enable_checkpointing=True,
    )  # fmt: skip
    clock.batch_seconds = 3.0
    budget = Budget(max_hours=39 / 3600)
    resumed, trainer = fit(
        corpus, tmp_path, budget, clock, max_steps=-1, limit_val_batches=0, resume=tmp_path / "step=10.ckpt"
    )
    assert trainer.global_step == resumed.total_steps == budget.hour_steps == 37
    assert equal(whole, resumed)


def test_other_hours_are_measured_anew_with_those_that_are_spent(corpus: Path, tmp_path: Path, clock: Clock):
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    changes: dict[str, Any] = {"max_steps": -1, "limit_val_batches": 0}
    fit(corpus, tmp_path, Budget(max_hours=19 / 3600), clock, saves, enable_checkpointing=True, **changes)
    budget = Budget(max_hours=59 / 3600)
    fit(corpus, tmp_path, budget, clock, resume=tmp_path / "step=10.ckpt", **changes)
    # 10 s are spent; measured until 2.95 s and 3 steps are over, steps 13 to 15, the first two being left out.
    assert budget.hour_steps == 15 + int(44 * 0.97)


@pytest.mark.parametrize("arguments", [{"max_tokens": 0}, {"max_hours": -1.0}])
def test_nonsense_is_refused(arguments: dict[str, Any]):
    with pytest.raises(UserError, match=r"--max_\w+ .*: give a positive number"):
        Budget(**arguments)
