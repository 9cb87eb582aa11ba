"""SIGTERM and Ctrl-C finish the optimizer step, write a checkpoint, and end the run."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ptm_lightning.run import Interrupted

from .step_end import StepEnd, save_step

STDERR = 2
NOTICE = b"\nfinishing the step, then saving; Ctrl-C again ends at once, without saving\n"


class GracefulStop(StepEnd):
    """Ends a run so that nothing is lost when it is told to go, by SIGTERM, by Ctrl-C, or by SLURM's SIGUSR1.

    The handler only notes the signal. At the end of the optimizer step, never inside an accumulation window, all
    processes agree, save the step, and raise `Interrupted`, which ends a script with 130 for Ctrl-C and 143 for
    SIGTERM. A validation that is due or running is finished first: its result belongs to the checkpoint. A second
    Ctrl-C ends at once, without saving.

    Lightning's own handlers are replaced for the time of training: on SIGTERM it ends without saving, and communicates
    between processes inside the handler; on SLURM it saves inside an accumulation window.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that this process got, or that another one got and told."""
        self._previous: dict[int, Any] = {}
        self._speaks = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Switches off Lightning's requeueing on SLURM, before it puts its handlers on."""
        super().setup(trainer, pl_module, stage)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts our handlers on, after Lightning's."""
        self._install(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts our handlers on, after Lightning's."""
        super().on_train_start(trainer, pl_module)
        self._install(trainer)

    def on_step_end(self, trainer: Trainer, module: LightningModule, metrics: dict[str, float]) -> None:
        """Saves and ends if any process was told to go."""
        told = self._agreed(trainer)
        if not told:
            return
        self.signal = told
        try:
            save_step(trainer, metrics)
        except OSError as error:
            rank_zero_warn(f"checkpoint at step {trainer.global_step} not written ({error})", category=RuntimeWarning)
        # Lightning's launcher kills all processes, the first one included, when another one ends with an error.
        raise Interrupted(told if trainer.is_global_zero else None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the handlers back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the handlers back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the handlers back."""
        self._restore()

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that any process got, the same on all of them; 0 if none did."""
        told = int(self.signal or 0)
        if trainer.world_size == 1:
            return told
        gathered = trainer.strategy.all_gather(torch.tensor(told, device=trainer.strategy.root_device))
        return int(gathered.max())

    def _install(self, trainer: Trainer) -> None:
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        self.signal = None
        self._speaks = trainer.is_global_zero
        numbers = [signal.SIGTERM, signal.SIGINT]
        if isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment):
            numbers.append(signal.SIGUSR1)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise Interrupted(number)
        self.signal = self.signal or number
        if self._speaks and number == signal.SIGINT and os.isatty(STDERR):
            os.write(STDERR, NOTICE)  # print isn't allowed to interrupt itself
