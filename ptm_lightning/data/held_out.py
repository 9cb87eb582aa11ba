"""What is held out of the training sources: how much, and which rows."""

from typing import Any, Literal

import numpy as np

from ptm_lightning.data.noise import Ints

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


def held_out_share(data: Any, split: Literal["validation", "test"]) -> float:
    """The share of the training sources that is held out for a split.

    Args:
        data: A data module; one for an evaluation of a run's model knows from the run's arguments what was held out.
        split: None is held out for it if training has sources of its own for it.
    """
    arguments = vars(data) if data.run_arguments is None else data.run_arguments
    return 0.0 if arguments.get(split) else float(getattr(data, f"{split}_share"))


def held_out(hashes: Hashes, strata: Hashes, shares: tuple[float, float]) -> Ints:
    """Which split each row belongs to.

    Args:
        hashes: (n,) of the rows' texts.
        strata: (n,) rows with equal numbers are held out in the same share.
        shares: Of validation and test.

    Returns:
        (n,) 0 training, 1 validation, 2 test. Equal rows of a stratum are together, and each keeps some for training.
        What one is too small to give the next ones make good; if none does, the rows with the smallest hash are taken.
    """
    split = np.zeros(len(hashes), dtype=np.int64)
    seen, held = 0, np.zeros(3, dtype=np.int64)
    order = np.lexsort((hashes, strata))
    begins = np.flatnonzero(np.diff(strata[order], prepend=strata[order][:1] + np.uint64(1)))
    for group in np.split(order, begins[1:]):
        seen += len(group)
        first = min(len(group) - 1, max(0, round(shares[0] * seen) - int(held[1])))
        second = min(len(group) - 1, max(first, round(sum(shares) * seen) - int(held[1:].sum())))
        split[_through_equals(hashes, group, first, second)] = 2
        split[_through_equals(hashes, group, 0, first)] = 1
        held += np.bincount(split[group], minlength=3)
    for number_, share in enumerate(shares, 1):
        rest = np.flatnonzero(split == 0)
        if share and len(rest) and not (split == number_).any():
            _, which, rows = np.unique(strata[rest], return_inverse=True, return_counts=True)
            rest = rest[(rows[which] > 1) | (rows.max() == 1)]
            smallest = rest[hashes[rest] == hashes[rest].min()]
            split[smallest if len(smallest) < len(rest) else rest[:0]] = number_
    return split


def _through_equals(hashes: Hashes, group: Ints, begin: int, end: int) -> Ints:
    """group[begin:end], but rows that equal each other all stand where the first of them does; none if that is all."""
    values = hashes[group]
    while 0 < begin < len(group) and values[begin] == values[begin - 1]:
        begin += 1
    while 0 < end < len(group) and values[end] == values[end - 1]:
        end += 1
    return group[begin:end] if begin < end < len(group) else group[:0]
