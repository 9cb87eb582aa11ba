import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from ptm_lightning.callbacks.checkpoints import Checkpoints
from ptm_lightning.callbacks.step_end import begin_next_epoch
from toy_run import Data, Model, equal, trainer_of

from ptm_lightning.checkpoint import SafeCheckpointIO, best, newest_valid, read_index, step_files, step_path
from ptm_lightning.errors import UserError

EVERY = {"every_n_steps": 1, "keep_last": 100}


class Marks(Checkpoints):
    """Notes how many events of the run lie before each checkpoint."""

    def _save(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        module = trainer.lightning_module
        assert isinstance(module, Model)
        self.events_before = getattr(self, "events_before", {}) | {trainer.global_step: len(module.events)}
        super()._save(trainer, metrics)


def fit(root: Path, *callbacks: Callback, resume: Path | None = None, **settings: Any) -> Model:
    model = Model()
    trainer_of(root, *callbacks, **settings).fit(model, Data(), ckpt_path=resume)
    return model


def saved(root: Path) -> list[int]:
    return list(step_files(root / "checkpoints"))


def go_on(root: Path, *callbacks: Callback, **settings: Any) -> Model:
    return fit(root, Checkpoints(every_n_steps=1), *callbacks, resume=newest_valid(root / "checkpoints")[0], **settings)


LIMITS = {"by steps": {"max_steps": 12, "max_epochs": -1}, "by epochs": {"max_steps": -1, "max_epochs": 3}}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("validate", "micro"), [("never", 2), ("steps", 1), ("steps", 3), ("epoch", 2)])
def test_every_checkpoint_resumes_exactly(tmp_path: Path, limit: str, validate: str, micro: int) -> None:
    settings = {"validate": validate, "accumulate_grad_batches": micro} | LIMITS[limit]
    marks = Marks(**EVERY)
    whole = fit(tmp_path, marks, **settings)
    assert saved(tmp_path) == list(range(1, 13))
    for step, path in step_files(tmp_path / "checkpoints").items():
        if step < 12:
            again = fit(tmp_path / str(step), Checkpoints(), resume=path, **settings)
            assert again.events == whole.events[marks.events_before[step] :], step
            assert equal(again, whole), step


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("validate", ["never", "steps", "epoch"])
def test_killed_in_each_step_again_and_again(tmp_path: Path, limit: str, validate: str) -> None:
    settings = {"validate": validate, "accumulate_grad_batches": 2} | LIMITS[limit]
    whole = fit(tmp_path / "whole", Checkpoints(), **settings)
    root = tmp_path / "killed"
    for step in range(2, 13):
        with pytest.raises(InterruptedError):
            go_on(root, Kill(step), **settings)
        assert saved(root)[-1] == step - 1
    last = go_on(root, **settings)
    assert equal(last, whole)
    assert last.events == whole.events[-len(last.events) :]
    assert [entry.metrics for entry in read_index(root / "checkpoints")][-1] == [
        entry.metrics for entry in read_index(tmp_path / "whole" / "checkpoints")
    ][-1]


def test_lightning_alone_would_not_resume_from_an_epoch_s_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # When this fails, Lightning has learnt it, and `begin_next_epoch` can go.
    monkeypatch.setattr("ptm_lightning.callbacks.step_end.begin_next_epoch", lambda loop: None)
    whole = fit(tmp_path, Checkpoints(**EVERY), validate="never")
    again = fit(tmp_path / "again", resume=step_path(tmp_path / "checkpoints", 5), validate="never")
    assert again.events != whole.events[-len(again.events) :]


def test_begin_next_epoch_is_the_state_before_its_first_batch(tmp_path: Path) -> None:
    states = {}

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
            states[trainer.global_step] = trainer.fit_loop.state_dict()

    fit(tmp_path, Checkpoints(**EVERY), Look(), validate="never")
    stored = SafeCheckpointIO().load_checkpoint(step_path(tmp_path / "checkpoints", 5))["loops"]["fit_loop"]
    assert stored["epoch_progress"] == states[5]["epoch_progress"]
    assert set(stored["epoch_loop.batch_progress"]["current"].values()) == {0}
    again = {key: dict(value) if isinstance(value, dict) else value for key, value in stored.items()}
    begin_next_epoch(stored)
    assert stored == again


def test_a_validation_inside_a_window_saves_nothing_there(tmp_path: Path) -> None:
    # Validation after micro-batches 3, 6, 9, ...: every other one falls into the middle of a step.
    settings = {"accumulate_grad_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}
    marks = Marks(every_n_steps=100, keep_last=100)
    whole = fit(tmp_path, marks, **settings)
    validated = [entry.step for entry in read_index(tmp_path / "checkpoints") if entry.metrics]
    assert validated == [3, 6, 9, 12]
    for step in (3, 5, 8, 9):
        again = fit(tmp_path / str(step), Checkpoints(), resume=step_path(tmp_path / "checkpoints", step), **settings)
        assert again.events == whole.events[marks.events_before[step] :]


@pytest.mark.parametrize(
    ("every", "total", "expected"),
    [(None, 12, list(range(1, 13))), (5, 12, [5, 8, 10, 12]), (100, 11, [5, 8, 11])],
)
def test_when_without_validation(tmp_path: Path, every: int | None, total: int, expected: list[int]) -> None:
    fit(tmp_path, Checkpoints(every, keep_last=100), validate="never", max_steps=total)
    assert saved(tmp_path) == expected


def test_about_twenty_in_a_run_whose_length_the_task_knows(tmp_path: Path) -> None:
    model = Model()
    model.total_steps = 60  # type: ignore[assignment]
    checkpoints = Checkpoints(keep_last=100)
    trainer_of(tmp_path, checkpoints, validate="never", max_steps=-1, max_epochs=1).fit(model, Data())
    assert saved(tmp_path) == [3, 5]


def test_keeps_the_best_and_the_last_two_and_resume_knows_the_best(tmp_path: Path) -> None:
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 1.0, 12: 4.0}
    model = Model()
    model.validation_losses = losses
    checkpoints = Checkpoints(every_n_steps=5)
    trainer_of(tmp_path, checkpoints).fit(model, Data())
    folder = tmp_path / "checkpoints"
    assert saved(tmp_path) == [4, 10, 12]
    assert [(entry.step, entry.metrics["val/loss"]) for entry in read_index(folder)] == [(4, 1.0), (10, 1.0), (12, 4.0)]
    assert len((folder / "index.jsonl").read_text().splitlines()) == 3
    assert checkpoints.best_model_path == str(step_path(folder, 4)) == str(best(folder))
    step_path(folder, 12).unlink()
    resumed, model = Checkpoints(keep_last=1), Model()
    model.validation_losses = losses
    trainer_of(tmp_path, resumed).fit(model, Data(), ckpt_path=step_path(folder, 10))
    assert saved(tmp_path) == [4, 12]
    assert resumed.best_model_path == str(step_path(folder, 4))


def test_metrics_are_of_the_validation_at_the_very_step(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoints(**EVERY), max_steps=4)
    entries = read_index(tmp_path / "checkpoints")
    assert [(entry.step, sorted(entry.metrics)) for entry in entries] == [
        (1, []),
        (2, ["val/loss"]),
        (3, []),
        (4, ["val/loss"]),
    ]


def test_a_metric_that_is_not_logged_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the validation logs no 'val/los', did you mean 'val/loss'?"):
        fit(tmp_path, Checkpoints(monitor="val/los"), max_steps=2)


def test_early_stop_by_a_hook_after_ours_is_saved(tmp_path: Path) -> None:
    class Stopping(Model):
        def on_train_batch_end(self, *args: Any) -> None:
            self.trainer.should_stop = self.global_step == 3

    trainer_of(tmp_path, Checkpoints(every_n_steps=100), validate="never").fit(Stopping(), Data())
    assert saved(tmp_path) == [3]


def test_what_is_newer_than_the_start_is_set_aside_and_litter_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    fit(tmp_path, Checkpoints(**EVERY), validate="never")
    litter = folder / ".step=00000003.ckpt.tmp"
    litter.write_bytes(b"torn")
    shutil.copy(step_path(folder, 3), tmp_path / "start.ckpt")
    with pytest.warns(UserWarning, match="this run starts from step 3; newer checkpoints are set aside"):
        fit(tmp_path, Checkpoints(**EVERY), resume=tmp_path / "start.ckpt", validate="never", max_steps=5)
    assert not litter.exists()
    assert saved(tmp_path) == [1, 2, 3, 4, 5]
    assert [entry.step for entry in read_index(folder)] == [1, 2, 3, 4, 5]
    assert len(list(folder.glob("*.old"))) == 9


class Full(SafeCheckpointIO):
    """A disk that is full at some of the steps."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if checkpoint["global_step"] in self.steps:
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint, path)


def test_a_full_disk_costs_a_warning_and_the_next_checkpoint_is_tried(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning) as warned:
        model = fit(tmp_path, Checkpoints(**EVERY), plugins=[Full({2, 3, 5})], validate="never")
    assert saved(tmp_path) == [1, 4, *range(6, 13)]
    said = [str(each.message) for each in warned if "not written" in str(each.message)]
    assert [text.split(" (")[0] for text in said] == [f"checkpoint at step {step} not written" for step in (2, 3, 5)]
    assert "(No space left on device, " in said[0]
    assert said[0].endswith(" GB free); training goes on")
    assert model.global_step == 12


def test_three_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    message = r"checkpoint at step 6 not written .*, 3 times in a row; make room, then go on with --resume"
    with pytest.warns(RuntimeWarning, match="not written"), pytest.raises(UserError, match=message):
        fit(tmp_path, Checkpoints(**EVERY), plugins=[Full({4, 5, 6})], validate="never")
    assert saved(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps of Checkpoints is 0, but must be at least 1"),
        ({"keep_last": 0}, "Checkpoints keeps 0 last and 1 best ones; at least 1 and 0 are needed"),
        ({"mode": "least"}, "mode of Checkpoints is 'least', but must be 'min' or 'max'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        Checkpoints(**arguments)
    assert str(raised.value) == message


def test_lightning_reads_and_writes_by_our_own_means(tmp_path: Path) -> None:
    checkpoints = Checkpoints()
    trainer = trainer_of(tmp_path, checkpoints, max_steps=2)
    trainer.fit(Model(), Data())
    assert isinstance(trainer.strategy.checkpoint_io, SafeCheckpointIO)
    results = trainer.validate(Model(), Data(), ckpt_path="best", verbose=False)
    assert torch.isfinite(torch.tensor(results[0]["val/loss"]))
