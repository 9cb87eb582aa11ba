"""A set of 64-bit hashes on disk, for corpora whose sentences don't fit into memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_RUN = 2**18


class HashSet:
    """Collects hashes in sorted runs and merges them into one sorted file; memory stays at a few runs of 2 MB.

    Args:
        path: The file that `finish` writes: distinct hashes in rising order, uint64.
        run: Hashes held in memory before they are sorted and written.
    """

    def __init__(self, path: Path, run: int = _RUN) -> None:
        self._path = path
        self._run = run
        self._runs_path = path.with_name(path.name + ".runs")
        self._runs = open(self._runs_path, "wb")  # noqa: SIM115 - __exit__ closes it
        self._sizes: list[int] = []
        self._held: list[Hashes] = []
        self._held_size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._runs.close()
        self._runs_path.unlink(missing_ok=True)

    def add(self, hashes: Hashes) -> None:
        """Takes hashes, in any order and with repetitions; shape (n,)."""
        self._held.append(hashes)
        self._held_size += len(hashes)
        if self._held_size >= self._run:
            self._flush()

    def _flush(self) -> None:
        if self._held_size:
            run = np.unique(np.concatenate(self._held))
            self._runs.write(run.data)
            self._sizes.append(len(run))
            self._held, self._held_size = [], 0

    def finish(self) -> int:
        """Writes the file and says how many distinct hashes it holds."""
        self._flush()
        self._runs.flush()
        distinct = 0
        with open(self._path, "wb") as file:
            for part in _merged(self._runs_path, self._sizes):
                file.write(part.data)
                distinct += len(part)
        return distinct


def _merged(path: Path, sizes: list[int]) -> Iterator[Hashes]:
    """The distinct hashes of sorted runs in rising order, part by part.

    Hashes are uniform, so equal ranges of values hold about equal numbers: with as many ranges as runs, each part is
    about as large as one run.
    """
    if not sizes:
        return
    values: Hashes = np.memmap(path, dtype=np.uint64, mode="r")
    runs = np.split(values, np.cumsum(sizes)[:-1])
    borders = [np.uint64(2**64 * i // len(sizes)) for i in range(1, len(sizes))]
    cuts = [[0, *np.searchsorted(run, np.array(borders, dtype=np.uint64)).tolist(), len(run)] for run in runs]
    for i in range(len(sizes)):
        yield np.unique(np.concatenate([run[cut[i] : cut[i + 1]] for run, cut in zip(runs, cuts, strict=True)]))


def contains(path: Path, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Which hashes are in a file that a HashSet wrote.

    Args:
        path: The file; it is mapped, not read.
        hashes: Shape (n,).

    Returns:
        Shape (n,).
    """
    known: Hashes = np.memmap(path, dtype=np.uint64, mode="r")
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[at] == hashes)
