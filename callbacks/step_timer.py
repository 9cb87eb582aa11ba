"""The time that optimizer steps take, without what happens between them."""

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer


class TimedStep(NamedTuple):
    """An optimizer step."""

    tokens: int
    """Of all its micro-batches and processes, without padding."""
    seconds: float
    """Its duration, with the waiting."""
    waited: float
    """Seconds in which it waited for its batches."""


class StepTimer(Callback, ABC):
    """Times optimizer steps with the clock on the wall; the device is never waited for.

    Between two batches the loop waits for the next one. If a validation or a checkpoint falls into such a gap, the gap
    is no part of any step. On an accelerator, which works behind the clock, a single step means little and the mean of
    many is right.
    """

    window: int | None = 50
    """How many steps are remembered."""

    def __init__(self) -> None:
        self.timed: deque[TimedStep] = deque(maxlen=self.window)
        """The last steps."""
        self.other_seconds = 0.0
        """Time spent between the steps of this run, in validation and checkpoints."""
        self._step = 0
        self._reset_clock()

    @abstractmethod
    def on_timed_step(self, trainer: Trainer, module: LightningModule) -> None:
        """A step is done, and the last of `timed`."""

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds of the remembered steps; None before the first one."""
        return sum(step.seconds for step in self.timed) / len(self.timed) if self.timed else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained on in a second, padding not counted, over the remembered steps; None before the first one."""
        return sum(step.tokens for step in self.timed) / self._seconds if self.timed else None

    @property
    def data_wait_share(self) -> float | None:
        """Share of the remembered steps' time that was spent waiting for batches; None before the first one."""
        return sum(step.waited for step in self.timed) / self._seconds if self.timed else None

    @property
    def _seconds(self) -> float:
        return max(sum(step.seconds for step in self.timed), 1e-9)

    def _reset_clock(self) -> None:
        self._batch_began = self._worked = self._waited = 0.0
        self._batch_ended: float | None = None
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self.timed = deque(maxlen=self.window)
        self.other_seconds = 0.0
        self._step = trainer.global_step
        self._reset_clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        self._batch_began = time.perf_counter()
        if self._batch_ended is not None:
            gap = self._batch_began - self._batch_ended
            if self._interrupted:
                self.other_seconds += gap
            else:
                self._waited += gap
        self._interrupted = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch is done, and perhaps the step."""
        self._batch_ended = time.perf_counter()
        self._worked += self._batch_ended - self._batch_began
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            tokens = batch["step_counts"]["tokens"]
            self.timed.append(TimedStep(tokens, self._worked + self._waited, self._waited))
            self._worked = self._waited = 0.0
            self.on_timed_step(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time until the next batch is no waiting."""
        self._interrupted = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The time until the next batch is no waiting."""
        self._interrupted = True


def log_interval(trainer: Trainer) -> int:
    """Optimizer steps between two lines of the log."""
    return max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
