"""Writing to a trainer's loggers, and taking back what a killed run wrote after its last checkpoint."""

from collections.abc import Iterable, Mapping

from lightning.pytorch.loggers import Logger


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
