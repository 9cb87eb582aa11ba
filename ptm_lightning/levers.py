"""What makes training faster and computes the same but for rounding; each can be switched off.

With dropout a run differs by which elements are drawn.
"""

from collections.abc import Collection

LEVERS = {
    "matmul": "fp32 matrix products by oneDNN, where it is faster and as exact",
    "allocator": "freed memory is kept for the next step",
    "attention": "attention with a faster backward pass, on CUDA within each document of packed or padded rows",
    "dropout": "dropout by 16 random bits an element",
}
"""What each does, by its name."""
ON_CUDA = frozenset({"attention"})
"""Those that are not for a CPU alone."""

_off: frozenset[str] = frozenset()


def switch_off(names: Collection[str]) -> None:
    """Leaves torch's own in the place of these from now on, and in the place of no other.

    Args:
        names: Of `LEVERS`.
    """
    global _off
    _off = frozenset(names)


def is_on(name: str) -> bool:
    """Whether ours is used.

    Args:
        name: One of `LEVERS`.
    """
    assert name in LEVERS, name
    return name not in _off
