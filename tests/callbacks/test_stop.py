import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback
from ptm_lightning.callbacks.checkpoints import Checkpoints
from ptm_lightning.callbacks.stop import GracefulStop
from toy_run import Data, Model, equal, trainer_of

from ptm_lightning.checkpoint import newest_valid, read_index, step_files
from ptm_lightning.run import Interrupted


def run(root: Path, *callbacks: Callback, model: Model | None = None, **settings: Any) -> Model:
    model = model or Model()
    resume = newest_valid(root / "checkpoints")[0]
    trainer_of(root, *callbacks, accumulate_grad_batches=2, **settings).fit(model, Data(), ckpt_path=resume)
    return model


def told(number: int, where: str, step: int, index: int) -> Model:
    """A model that gets a signal in the middle of a batch."""
    model = Model()

    def raise_signal(module: Model, what: str, batch: int) -> None:
        if (what, module.global_step, batch) == (where, step, index):
            signal.raise_signal(number)

    model.during = raise_signal
    return model


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]


@pytest.mark.parametrize("limit", [{"max_steps": 12, "max_epochs": -1}, {"max_steps": -1, "max_epochs": 3}])
@pytest.mark.parametrize(
    ("number", "validate", "where", "step", "index", "saved"),
    [
        (signal.SIGTERM, "never", "training", 0, 0, 1),  # in the first micro-batch of the first step
        (signal.SIGTERM, "steps", "training", 2, 4, 3),  # between two micro-batches
        (signal.SIGINT, "steps", "training", 2, 5, 3),  # in a step's last micro-batch
        (signal.SIGINT, "steps", "training", 3, 6, 4),  # validation is due
        (signal.SIGTERM, "steps", "validation", 4, 1, 4),  # in validation
        (signal.SIGTERM, "never", "training", 4, 8, 5),  # in an epoch's last step
        (signal.SIGINT, "epoch", "training", 7, 5, 8),  # in an epoch's last step, validation is due
        (signal.SIGTERM, "epoch", "training", 11, 6, 12),  # in the last step of all
    ],
)
def test_finishes_the_step_and_resumes_exactly(
    tmp_path: Path, limit: Any, number: int, validate: str, where: str, step: int, index: int, saved: int
) -> None:
    whole = run(tmp_path / "whole", Checkpoints(), validate=validate, **limit)
    before, stop = handlers(), GracefulStop()
    model = told(number, where, step, index)
    with pytest.raises(Interrupted) as raised:
        run(tmp_path / "told", stop, model=model, validate=validate, **limit)
    assert (raised.value.code, raised.value.signal, stop.signal) == (128 + number, number, number)
    assert handlers() == before
    assert list(step_files(tmp_path / "told" / "checkpoints")) == [saved]
    [entry] = read_index(tmp_path / "told" / "checkpoints")
    validated = validate == "epoch" or (validate == "steps" and saved % 2 == 0)
    assert ("val/loss" in entry.metrics) == validated
    again = run(tmp_path / "told", GracefulStop(), validate=validate, **limit)
    if saved < 12:
        assert model.events + again.events == whole.events
        assert equal(again, whole)


def test_beside_checkpoints_in_either_order(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Checkpoints())
    for name, callbacks in {
        "before": [GracefulStop(), Checkpoints(every_n_steps=1)],
        "after": [Checkpoints(every_n_steps=1), GracefulStop()],
    }.items():
        with pytest.raises(Interrupted):
            run(tmp_path / name, *callbacks, model=told(signal.SIGTERM, "training", 3, 7))
        assert list(step_files(tmp_path / name / "checkpoints"))[-1] == 4
        again = run(tmp_path / name, *callbacks)
        assert equal(again, whole)
        assert list(step_files(tmp_path / name / "checkpoints"))[-1] == 12


def test_a_second_ctrl_c_ends_at_once_without_saving(tmp_path: Path) -> None:
    model, before = Model(), handlers()

    def impatient(module: Model, what: str, index: int) -> None:
        if module.global_step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("goes on")

    model.during = impatient
    with pytest.raises(Interrupted) as raised:
        run(tmp_path, GracefulStop(), model=model, validate="never")
    assert raised.value.code == 130
    assert not (tmp_path / "checkpoints").exists()
    assert handlers() == before


def test_a_signal_in_the_sanity_check_stops_after_the_first_step(tmp_path: Path) -> None:
    model = told(signal.SIGTERM, "validation", 0, 0)
    with pytest.raises(Interrupted):
        run(tmp_path, GracefulStop(), model=model, num_sanity_val_steps=2)
    assert list(step_files(tmp_path / "checkpoints")) == [1]


def test_handlers_are_given_back_after_a_run_and_after_an_error(tmp_path: Path) -> None:
    before = handlers()
    run(tmp_path / "a", GracefulStop())
    assert handlers() == before
    model = Model()

    def fail(module: Model, what: str, index: int) -> None:
        raise ArithmeticError

    model.during = fail
    with pytest.raises(ArithmeticError):
        run(tmp_path / "b", GracefulStop(), model=model)
    assert handlers() == before


def test_a_checkpoint_that_cannot_be_written_does_not_keep_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    model = told(signal.SIGTERM, "training", 2, 4)
    with pytest.warns(RuntimeWarning, match="checkpoint at step 3 not written"), pytest.raises(Interrupted):
        run(tmp_path, GracefulStop(), model=model, validate="never")


def test_slurm_s_signal_stops_and_lightning_does_not_requeue(tmp_path: Path) -> None:
    environment = SLURMEnvironment(auto_requeue=True)
    model, before = told(signal.SIGUSR1, "training", 2, 4), handlers()
    trainer = trainer_of(tmp_path, GracefulStop(), accumulate_grad_batches=2, validate="never")
    trainer._accelerator_connector.cluster_environment = environment
    with pytest.raises(Interrupted) as raised:
        trainer.fit(model, Data())
    assert raised.value.code == 128 + signal.SIGUSR1
    assert not environment.auto_requeue
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["step=00000003.ckpt"]
    assert handlers() == before


TWO = """
import os, signal, sys, warnings
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from toy_run import Data, Model, trainer_of
from ptm_lightning.callbacks.checkpoints import Checkpoints
from ptm_lightning.callbacks.stop import GracefulStop
from ptm_lightning.checkpoint import SafeCheckpointIO

class Full(SafeCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 2:
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint, path)

def during(module, what, index):
    if module.global_rank == 1 and module.global_step == 4:
        os.kill(os.getpid(), signal.SIGTERM)

model = Model()
model.during = during
trainer = trainer_of(
    Path(sys.argv[1]), Checkpoints(every_n_steps=1, keep_last=9), GracefulStop(), accumulate_grad_batches=2,
    validate="never", devices=2, strategy="ddp", plugins=[Full()],
)
trainer.fit(model, Data())
"""


def test_two_processes_agree_on_a_signal_and_on_a_full_disk(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 143, done.stderr
    assert list(step_files(tmp_path / "run" / "checkpoints")) == [1, 3, 4, 5]
    assert done.stderr.count("checkpoint at step 2 not written (No space left on device") == 1
