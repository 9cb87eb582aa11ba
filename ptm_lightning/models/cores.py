"""As many threads as a container grants cores: torch counts all that the machine has."""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path, PurePosixPath

import torch

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def limit_threads() -> None:
    """Lowers torch's threads to the cores that are granted, unless OMP_NUM_THREADS says how many there are to be.

    Sixty threads that share the time of two cores stand still together whenever it is spent.
    """
    cores = granted_cores(OWN, CGROUPS)
    if cores is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, ceil(cores))))


def granted_cores(own: Path, root: Path) -> float | None:
    """Seconds of the processor's time for each second, by the strictest of the control groups above this process.

    Args:
        own: Where Linux names the process's groups: one on a line, as "0::/path" (version 2) or "4:cpu,cpuacct:/path".
        root: Where the groups lie.

    Returns:
        None if there is no limit, or no such system.
    """
    return min(_limits(own, root), default=None)


def _limits(own: Path, root: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            inside = PurePosixPath(path.lstrip("/"))
            for top in {root / controllers, root / "cpu"} if controllers else {root}:
                for folder in (top / inside, *(top / parent for parent in inside.parents)):
                    yield from _limit(folder)


def _limit(folder: Path) -> Iterator[float]:
    """The limit of one group, if it has one, in microseconds of time for each period."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((folder / name).read_text() for name in files).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
