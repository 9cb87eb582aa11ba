"""Ratios of measurements taken in turns."""

import statistics
from collections.abc import Sequence

Numbers = dict[str, float]


def ratios(
    turns: dict[str, list[Numbers]], peer: str, ours: str = "ours", unit: str = "tokens_per_second"
) -> list[float]:
    """Ours over a peer, turn by turn: in useful tokens per second, or in something else that was measured."""
    return [mine[unit] / theirs[unit] for mine, theirs in zip(turns[ours], turns[peer], strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.{digits}f}  ({min(values):.{digits}f} to {max(values):.{digits}f})"
