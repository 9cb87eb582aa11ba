"""How far a run is: a bar in a terminal, a plain line now and then elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from .human import compact, duration
from .step_timer import StepTimer, log_interval

SECONDS_BETWEEN_UPDATES = 0.5
SECONDS_BETWEEN_LINES = 30.0
SHARE_BETWEEN_LINES = 0.01


class Progress(StepTimer):
    """Shows step, loss, tokens per second and time left; in validation, test and prediction, the batches.

    In a terminal it is a bar, drawn at most twice a second. Elsewhere (a pipe, a file, CI) it is a line every 30
    seconds or every percent, whichever is rarer, and one at the end. Each validation leaves a line in both. It goes to
    the error stream, or to the terminal if only the output stream is one. The loss is the mean since the task logged
    last.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bars: Bars | None = None
        self._training: TaskID | None = None
        self._batches: TaskID | None = None
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._loss: float | None = None
        self._steps_here = self._shown_step = 0
        self._shown_at = float("-inf")

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        super().on_train_start(trainer, pl_module)
        self._steps_here, self._shown_step, self._loss = 0, trainer.global_step, None
        self._shown_at = time.monotonic()
        self._open(trainer)
        if self._bars is not None:
            self._training = self._bars.add_task("")
            self._draw(trainer, pl_module)

    def on_timed_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Shows the step if it is time to."""
        self._steps_here += 1
        if not trainer.is_global_zero:
            return
        waited = time.monotonic() - self._shown_at
        if self._bars is not None:
            if waited >= SECONDS_BETWEEN_UPDATES:
                self._draw(trainer, module)
        elif waited >= SECONDS_BETWEEN_LINES and self._enough_steps(trainer, module):
            self._line(trainer, module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Takes the loss that the task is about to log, after which it begins a new mean."""
        module: Any = pl_module
        if trainer.is_global_zero and (trainer.global_step + 1) % log_interval(trainer) == 0:
            self._loss = module.means(module.running_sums, "train").get("train/loss")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last step, and closes the bar."""
        if self._bars is not None:
            self._draw(trainer, pl_module)
        elif trainer.is_global_zero and trainer.global_step > self._shown_step:
            self._line(trainer, pl_module)
        self._close()

    def _enough_steps(self, trainer: Trainer, module: LightningModule) -> bool:
        return trainer.global_step - self._shown_step >= SHARE_BETWEEN_LINES * _total(module)

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._bars is not None
        assert self._training is not None
        status = self._status(trainer, module)
        self._bars.update(self._training, completed=trainer.global_step, total=_total(module), description=status)
        self._bars.refresh()
        self._shown_at = time.monotonic()

    def _line(self, trainer: Trainer, module: LightningModule) -> None:
        self._say(self._status(trainer, module))
        self._shown_step, self._shown_at = trainer.global_step, time.monotonic()

    def _status(self, trainer: Trainer, module: Any) -> str:
        # Empty right after the task has logged. Reading it waits for the device.
        self._loss = module.means(module.running_sums, "train").get("train/loss", self._loss)
        left = None
        if self.step_seconds is not None and self._steps_here:
            each = self.step_seconds + self.other_seconds / self._steps_here
            left = each * max(0, _total(module) - trainer.global_step)
        return status_line(trainer.global_step, _total(module), self._loss, self.tokens_per_second, left)

    # Validation, test, prediction

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a bar for the batches."""
        super().on_validation_start(trainer, pl_module)
        if _counts(trainer):
            self._begin_batches(trainer, "validation", trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Counts."""
        self._advance_batches()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a line with the metrics."""
        if _counts(trainer):
            self._end_batches(trainer, "validation", "val/")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a bar for the batches."""
        self._begin_batches(trainer, "test", trainer.num_test_batches)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Counts."""
        self._advance_batches()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a line with the metrics."""
        self._end_batches(trainer, "test", "test/")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a bar for the batches."""
        self._begin_batches(trainer, "prediction", trainer.num_predict_batches)

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Counts."""
        self._advance_batches()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def _begin_batches(self, trainer: Trainer, title: str, counts: list[int | float]) -> None:
        self._open(trainer)
        if self._bars is not None:
            total = sum(counts)
            self._batches = self._bars.add_task(title, total=None if total == float("inf") else total)
            self._bars.refresh()

    def _advance_batches(self) -> None:
        if self._bars is None or self._batches is None:
            return
        self._bars.advance(self._batches)
        if time.monotonic() - self._shown_at >= SECONDS_BETWEEN_UPDATES:
            self._bars.refresh()
            self._shown_at = time.monotonic()

    def _end_batches(self, trainer: Trainer, title: str, prefix: str) -> None:
        if self._bars is not None and self._batches is not None:
            self._bars.remove_task(self._batches)
            self._batches = None
        if trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            shown = getattr(trainer.lightning_module, "headline", ()) if title == "validation" else ()
            self._say(result_line(title, trainer.global_step, metrics, prefix, shown))
        if trainer.state.fn != "fit":
            self._close()

    # The bar

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _open(self, trainer: Trainer) -> None:
        stream = terminal()
        if self._bars is not None or stream is None or not trainer.is_global_zero:
            return
        before = sys.stderr
        self._bars = Bars(
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False),
            console=Console(file=stream),
            auto_refresh=False,
            # What goes to a file must not go to the terminal instead.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._bars.start()
        for handler in _stream_handlers():
            if handler.stream is before:
                self._moved.append((handler, before))
                handler.setStream(sys.stderr)

    def _close(self) -> None:
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._training = self._batches = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the terminal as it was."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the terminal as it was."""
        self._close()


def terminal() -> TextIO | None:
    """The stream on which a bar can be drawn, if there is one."""
    if os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return None
    return next((stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None)


def status_line(
    step: int, total: int, loss: float | None, tokens_per_second: float | None, seconds_left: float | None
) -> str:
    """Where training stands; what isn't known is left out.

    Returns:
        Such as "step 1200/10000  12 %  loss 3.214  11.2k tok/s  left 2h14m".
    """
    parts = [f"step {step}/{total}", f"{int(100 * step / max(1, total))} %"]
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    if tokens_per_second is not None:
        parts.append(f"{compact(tokens_per_second, '')} tok/s")
    if seconds_left is not None:
        parts.append(f"left {duration(seconds_left)}")
    return "  ".join(parts)


def result_line(title: str, step: int, metrics: dict[str, float], prefix: str, shown: Sequence[str] = ()) -> str:
    """The metrics of an evaluation, the loss and the perplexity first; if `shown` isn't empty, the loss and those.

    Returns:
        Such as "validation at step 400: loss 3.210  perplexity 24.8  accuracy 0.412".
    """
    mine = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    if shown:
        mine = {name: value for name, value in mine.items() if name in ("loss", *shown)}
    order = sorted(mine, key=lambda name: (name != "loss", name != "perplexity", name))
    return f"{title} at step {step}: " + "  ".join(f"{name} {_three_digits(mine[name])}" for name in order)


def _three_digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.3g}"


def _counts(trainer: Trainer) -> bool:
    """Whether a validation is a whole one, and no mere check that it works."""
    return not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf")


def _total(module: Any) -> int:
    return int(module.total_steps)


def _stream_handlers() -> list[logging.StreamHandler[TextIO]]:
    """Of all loggers: they hold the stream that was there when they were made."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
