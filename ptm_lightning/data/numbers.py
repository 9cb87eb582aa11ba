"""What the numbers among a data module's settings must be."""

from typing import Protocol

from ptm_lightning.errors import UserError

LEAST = {"batch_tokens": 1, "batch_size": 1, "max_length": 1, "num_workers": 0, "seed": 0, "vocab_size": 1}


class Settings(Protocol):
    """The settings that are looked at, with those in `LEAST`."""

    train: list[str]
    weights: list[float] | None
    validation_share: float


def check_numbers(settings: Settings) -> None:
    """Refuses numbers that make no sense.

    Raises:
        UserError: One is too small, or a share is no share.
    """
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f"--data.{name} {value}: give {least} or more")
    if not 0 <= settings.validation_share < 1:
        raise UserError(
            f"--data.validation_share {settings.validation_share}: give one of at least 0 and below 1, such as 0.02"
        )
    weights = settings.weights
    if weights is not None and len(weights) != len(settings.train):
        raise UserError(
            f"--data.weights: {len(weights)} for {len(settings.train)} sources of --data.train; give each one"
        )
    if nothing := [weight for weight in weights or () if not weight > 0]:
        raise UserError(f"--data.weights: {nothing[0]:g} draws nothing; give numbers above 0, or leave the source out")
