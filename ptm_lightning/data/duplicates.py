"""How many documents say nearly the same as another one, estimated on a sample."""

import numpy as np

from ptm_lightning.data.noise import Ints, mix
from ptm_lightning.data.store import TokenStore

SHINGLE = 5
"""Tokens of an overlapping piece; two documents that share most of these are near-duplicates."""
HASHES = 32
ALIKE = 0.8
"""From this estimated Jaccard similarity on."""


def near_duplicate_share(store: TokenStore, documents: int) -> float:
    """The share of documents with a near-duplicate among the first `documents`, by MinHash (Broder 1997).

    Args:
        store: The documents.
        documents: How many to compare.

    Returns:
        A share in [0, 1]; documents shorter than a shingle aren't counted.
    """
    signatures = [
        signature(store.tokens[store.offsets[i] : store.offsets[i + 1]].astype(np.int64))
        for i in range(min(documents, len(store)))
        if store.offsets[i + 1] - store.offsets[i] >= SHINGLE
    ]
    if len(signatures) < 2:
        return 0.0
    table = np.stack(signatures)
    found = np.zeros(len(table), dtype=np.bool_)
    for i in range(len(table)):
        alike = (table == table[i]).mean(axis=1) >= ALIKE
        alike[i] = False
        found[i] = alike.any()
    return float(found.mean())


def signature(tokens: Ints) -> Ints:
    """(32,) the smallest hash of the document's shingles under 32 hash functions."""
    shingles = np.lib.stride_tricks.sliding_window_view(tokens, SHINGLE).astype(np.uint64)
    with np.errstate(over="ignore"):
        powers = np.uint64(0x100000001B3) ** np.arange(SHINGLE, dtype=np.uint64)
        keys = mix((shingles * powers).sum(axis=1))
        seeds = mix(np.arange(1, HASHES + 1, dtype=np.uint64))
        smallest: Ints = mix(keys[:, None] ^ seeds[None, :]).min(axis=0).astype(np.int64)
    return smallest
