"""Writing to a trainer's loggers, and taking back what a killed run wrote after its last checkpoint."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

from ptm_lightning.limits import sync_buffers

if TYPE_CHECKING:
    from ptm_lightning.task import Task


def logs_at(trainer: Trainer, step: int) -> bool:
    """Whether the metrics of training are written after so many steps: every `log_every_n_steps`, and with 0 never."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every and step % every == 0)


def record_steps(task: "Task", step: int, rate: float, gradient_norm: Tensor | None) -> None:
    """Writes the training metrics since the last time.

    Args:
        task: Whose running sums begin anew.
        step: The optimizer steps done.
        rate: The last step's learning rate.
        gradient_norm: (,) of the last step, before clipping.
    """
    assert gradient_norm is not None
    measured = {"train/learning_rate": rate, "train/gradient_norm": float(gradient_norm)}
    sums = task.running_sums.over_processes(task.trainer.strategy, task.trainer.world_size)
    metrics = task.means(sums, "train") | measured
    task.running_sums.clear()
    write_records(task.trainer.loggers, metrics | {"tokens": task.tokens_seen}, step)


def record_evaluation(task: "Task", prefix: Literal["val", "test"]) -> None:
    """Writes the metrics of an evaluation over all batches and processes."""
    trainer, evaluation = task.trainer, task.evaluation
    with trainer.precision_plugin.forward_context():
        task.complete(evaluation.records)
    sync_buffers(trainer, on=True)
    sums = evaluation.over_processes(trainer.strategy, trainer.world_size)
    evaluation.split = "test" if prefix == "test" else "validation"
    metrics = task.means(sums, prefix, evaluation.records)
    fitting = trainer.state.fn == "fit"
    task.log_dict(metrics, logger=not fitting, sync_dist=True)
    if fitting and (not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf")):
        write_records(trainer.loggers, metrics | {"tokens": task.tokens_seen}, task.global_step)


def write_records(loggers: Iterable[Logger], metrics: Mapping[str, float], step: int) -> None:
    """Gives a row to every logger.

    Args:
        loggers: The trainer's.
        metrics: By name, with "tokens", how many were seen in training.
        step: The optimizer steps done.
    """
    for logger in loggers:
        logger.log_metrics(dict(metrics), step)


def truncate_records(loggers: Iterable[Logger], step: int) -> None:
    """Takes what is newer than a step out of the loggers that can do so.

    Args:
        loggers: The trainer's.
        step: The one that is gone on from; -1 to begin anew.
    """
    for logger in loggers:
        truncate = getattr(logger, "truncate", None)
        if truncate is not None:
            truncate(step)
