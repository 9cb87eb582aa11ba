"""Runs the command line with a death in it: `python kill_at.py fit ...` kills itself at the place that $PTM_KILL names.

The product knows nothing of it: hooks and functions are wrapped here, before the command starts. SIGKILL goes to the
whole process group (all processes of the run and their data workers), as when a machine goes down, except for a death
at a system call, which is strace's, and for the death of one process.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

VARIABLE = "PTM_KILL"
PR_SET_PTRACER = 0x59616D61
PR_SET_PTRACER_ANY = -1
ATTACH_SECONDS = 10.0
TRACED = 77
"""What a traced thread is told that its parent is."""


@dataclass(frozen=True)
class Death:
    """Where a run dies: the first time that it comes to the place at or after the step."""

    place: str
    """One of `PLACES`."""
    step: int = 0
    """Optimizer steps done."""
    delay: float = 0.0
    """Place "at random": seconds after the beginning of a batch."""
    call: str = ""
    """Place "writing": a regular expression of system calls' names, as strace takes it."""
    nth: int = 1
    """Place "writing": which of these calls."""
    report: str = ""
    """A file that is told the step."""

    def __str__(self) -> str:
        return f"{self.place} a checkpoint: {self.call.strip('^$')} {self.nth}" if self.call else self.place


BEFORE = ("training the tokenizer", "tokenizing", "validating before the first step")
"""Places that a run comes to before its first step,"""
DURING = (
    "before the first checkpoint",
    "at random",
    "between micro-batches",
    "validating",
    "writing",
    "epoch's last step",
    "epoch's end",
    "one process",
)
"""between its steps,"""
AFTER = ("exporting",)
"""and after them."""
PLACES = (*BEFORE, *DURING, *AFTER)


def die(death: Death, step: int) -> None:
    """Reports the step and kills the process group."""
    report(death, step)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def report(death: Death, step: int) -> None:
    """Says at which step the run dies."""
    Path(death.report).write_text(str(step))


@contextmanager
def traced(*options: str) -> Iterator[None]:
    """Puts strace on this thread: `options` say what it does to the calls inside. A "trace=" needs getppid, too."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(PR_SET_PTRACER_ANY), 0, 0, 0)
    handshake = ("-e", f"inject=getppid:retval={TRACED}")
    tracer = subprocess.Popen(
        ["strace", "-qq", "-p", str(threading.get_native_id()), *options, *handshake], stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + ATTACH_SECONDS
    while os.getppid() != TRACED:  # strace answers in the kernel's place as soon as it sees every call
        if time.monotonic() > end:
            raise TimeoutError("strace doesn't attach")
        time.sleep(0.001)
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


class KillAt(Callback):
    """Dies in one of the trainer's hooks.

    Args:
        death: Where.
    """

    def __init__(self, death: Death) -> None:
        self.death = death
        self.timer: threading.Timer | None = None

    def _reached(self, trainer: Trainer, *places: str) -> bool:
        mine = trainer.global_rank == (1 if self.death.place == "one process" else 0)
        return mine and self.death.place in places and trainer.global_step >= self.death.step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the clock for a death at random, which then falls anywhere."""
        if self.timer is None and self._reached(trainer, "at random"):
            self.timer = threading.Timer(self.death.delay, lambda: die(self.death, trainer.global_step))
            self.timer.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The optimizer's step is done, but neither validated nor saved."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (
            (stepped and self._reached(trainer, "before the first checkpoint"))
            or (not stepped and self._reached(trainer, "between micro-batches"))
            or (trainer.is_last_batch and self._reached(trainer, "epoch's last step"))
        ):
            die(self.death, trainer.global_step)
        if self._reached(trainer, "one process"):
            report(self.death, trainer.global_step)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """In the middle of a validation."""
        place = "validating before the first step" if trainer.sanity_checking else "validating"
        if self._reached(trainer, place):
            die(self.death, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's hooks have begun."""
        if self._reached(trainer, "epoch's end"):
            die(self.death, trainer.global_step)


def arm(death: Death) -> None:
    """Wraps what leads to the place, in this process."""
    from ptm_lightning.callbacks import checkpoints, export

    from ptm_lightning.data import corpus, corpus_tokenizer

    _wrap(Trainer, "fit", lambda fit, trainer, *args, **kwargs: _fit_with(KillAt(death), fit, trainer, *args, **kwargs))
    if int(os.environ.get("LOCAL_RANK", "0")):
        return
    if death.place == "training the tokenizer":
        _wrap(corpus_tokenizer, "train_tokenizer", lambda *args, **kwargs: _die_after(death, *args, **kwargs))
    if death.place == "tokenizing":
        _wrap(corpus, "build_stores", lambda build, *args, **kwargs: build(*args, **_dying(death, kwargs)))
    if death.place == "writing":
        _wrap(checkpoints.Checkpoints, "_save", lambda save, *args: _die_in_save(death, save, *args))
    if death.place == "exporting":
        _wrap(export, "export", lambda *args, **kwargs: die(death, death.step))


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    first = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: wrapper(first, *args, **kwargs))


def _fit_with(callback: Callback, fit: Callable[..., None], trainer: Any, *args: Any, **kwargs: Any) -> None:
    trainer.callbacks.insert(0, callback)
    fit(trainer, *args, **kwargs)


def _die_after(death: Death, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    call(*args, **kwargs)
    die(death, 0)


def _dying(death: Death, kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs | {"on_progress": lambda size: die(death, 0)}


def _die_in_save(death: Death, save: Callable[..., None], callback: Any, trainer: Any, metrics: Any) -> None:
    if trainer.global_step < death.step or not trainer.is_global_zero:
        save(callback, trainer, metrics)
        return
    report(death, trainer.global_step)
    with traced("-o", "/dev/null", "-e", f"inject=/{death.call}:signal=KILL:when={death.nth}"):
        save(callback, trainer, metrics)
    Path(death.report).unlink()  # the place wasn't reached


def variables(death: Death) -> dict[str, str]:
    """The environment that makes this file's command die there."""
    return {VARIABLE: json.dumps(asdict(death))}


def has_strace() -> bool:
    """Whether deaths at system calls can be had here."""
    strace = shutil.which("strace")
    return bool(strace) and not subprocess.run([str(strace), "-o", "/dev/null", "true"], capture_output=True).returncode


def main() -> int:
    """Runs the command line, armed if $PTM_KILL says so."""
    from ptm_lightning.__main__ import main as command_line
    from ptm_lightning.plugins import load_plugins

    if given := os.environ.get(VARIABLE):
        load_plugins()
        arm(Death(**json.loads(given)))
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
