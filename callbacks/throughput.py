"""How fast training is, in the log."""

from collections import deque

from lightning.pytorch import LightningModule, Trainer

from ptm_lightning.records import logs_at

from .step_timer import StepTimer, log_interval


class Throughput(StepTimer):
    """Logs tokens per second, seconds per step, and the share of the time that is lost waiting for batches.

    Padding isn't counted as tokens; validation and checkpoints aren't counted as time. Every
    `trainer.log_every_n_steps` steps, to all loggers: `speed/tokens_per_second`, `speed/step_seconds` and
    `speed/data_wait_share`, the means over the steps since.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers as many steps as lie between two lines of the log."""
        super().on_train_start(trainer, pl_module)
        self.timed = deque(maxlen=log_interval(trainer))

    def on_timed_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Logs when the task does."""
        if not logs_at(trainer, trainer.global_step):
            return
        assert self.tokens_per_second is not None
        assert self.step_seconds is not None
        assert self.data_wait_share is not None
        metrics = {
            "speed/tokens_per_second": self.tokens_per_second,
            "speed/step_seconds": self.step_seconds,
            "speed/data_wait_share": self.data_wait_share,
            "tokens": float(module.tokens_seen),  # type: ignore[arg-type]
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
