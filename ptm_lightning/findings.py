"""What `check` finds: a property of an objective, what was asked for, what real batches have."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

NOTHING = "nothing to count"
SIGMAS = 5.0
"""A share may be so many standard deviations off: chance does that once in two million."""


class Finding(NamedTuple):
    """One line of the table."""

    what: str
    asked: str
    found: str
    wrong: str = ""
    """What is wrong, with an example; empty if nothing is."""
    allowed: str = ""
    """How far what was found may be off; empty where it may not, and where it doesn't matter."""


def share(what: str, asked: float, hits: int, count: int) -> Finding:
    """A share that chance decides: it must be as asked for, but for the deviation that chance explains.

    Args:
        what: What is counted.
        asked: The share that it should have, in [0, 1].
        hits: How many there are.
        count: Of how many; decisions that don't depend on each other. None is a failure.
    """
    if not count:
        return Finding(what, f"{asked:.2%}", "", NOTHING)
    found = hits / count
    allowed = SIGMAS * sqrt(max(asked * (1 - asked), 1 / count) / count)
    off = f"{hits:,} of {count:,}; chance explains a difference of {allowed:.2%}"
    wrong = off if abs(found - asked) > allowed else ""
    return Finding(what, f"{asked:.2%}", f"{found:.2%}", wrong, f"{allowed:.2%}")


def mean(what: str, asked: float, total: float, count: int, deviation: float) -> Finding:
    """A mean that chance decides, held to what was asked for like a share.

    Args:
        what: What is measured.
        asked: The mean that it should have.
        total: The sum over all cases.
        count: How many cases there are; they don't depend on each other. None is a failure.
        deviation: At most the standard deviation of one case.
    """
    if not count:
        return Finding(what, f"{asked:.2f}", "", NOTHING)
    found = total / count
    allowed = SIGMAS * deviation / sqrt(count)
    wrong = f"{count:,} cases; chance explains a difference of {allowed:.2f}" if abs(found - asked) > allowed else ""
    return Finding(what, f"{asked:.2f}", f"{found:.2f}", wrong, f"{allowed:.2f}")


def faults(what: str, examples: Sequence[str], among: int | None = None) -> Finding:
    """Something that must not be at all.

    Args:
        what: What is counted.
        examples: One for each case.
        among: How many could be one, if that is known. None of them is a failure.
    """
    wrong = NOTHING if among == 0 else ""
    return Finding(what, "0", f"{len(examples):,}", examples[0] if examples else wrong)
