"""A shuffle without memory: the i-th document of a random order, computed for itself."""

import numpy as np
from numpy.typing import NDArray

from ptm_lightning.data.noise import Ints, mix

ROUNDS = 4


def permuted(index: Ints, size: int, key: int) -> Ints:
    """Where a pseudo-random permutation of range(size) sends each index.

    A Feistel network over the next power of four, walked until it falls inside the range (Black and Rogaway 2002).
    Nothing is stored.

    Args:
        index: Any number of indices in [0, size).
        size: How many there are.
        key: Another key is another permutation.

    Returns:
        As many indices in [0, size), no two equal for different arguments.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = mix(np.arange(1, ROUNDS + 1, dtype=np.uint64) + mix(np.array([key & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)))
    values = np.asarray(index, dtype=np.int64).astype(np.uint64)
    outside = np.ones(values.shape, dtype=np.bool_)
    while outside.any():
        values[outside] = _feistel(values[outside], half, keys)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & low
    with np.errstate(over="ignore"):
        for key in keys:
            left, right = right, left ^ (mix(right + key) & low)
    return (left << np.uint64(half)) | right
