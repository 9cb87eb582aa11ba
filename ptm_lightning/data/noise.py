"""Noise as a function of where a token stands in the corpus, never of the batch it came in.

Every random number is a hash of (seed, draw, offset, purpose): `draw` counts how often the document has been seen,
`offset` is the token's place in the token store. So a token gets the same noise in any batch, worker or process.

Shapes: n tokens in flat order; m units (tokens, words or spans) that are masked as a whole.
"""

from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Unit = Literal["token", "word", "span", "ngram"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = 2**64 - 1


class Purpose(IntEnum):
    """What a random number is for: numbers of different purposes are independent."""

    CHOOSE = 1
    LAST = 2
    KIND = 3
    REPLACE = 4
    SPAN = 5
    ORDER = 6
    MIX = 7
    BATCH = 8
    DROPOUT = 9
    SPAN_CUT = 30
    DENOISER = 31
    SPAN_LENGTH = 32
    SPAN_PLACE = 33
    SENTENCE_ORDER = 34
    SHORT = 40
    SHORT_LENGTH = 41
    SPLIT = 42
    NEGATIVE = 43
    OTHER = 44
    SENTENCE = 45
    CUT_FIRST = 46
    CUT_SECOND = 47
    TARGET_LENGTH = 50
    TARGET_ROUNDING = 51
    TARGET_PLACE = 52
    FACTORISATION = 53
    SAMPLE = 60
    GENERATOR = 61
    EXCHANGE = 70


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection on 64-bit numbers that spreads every bit (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash64(seed: int, draw: Ints | int, offset: Ints | int, purpose: Purpose) -> NDArray[np.uint64]:
    """64 random bits for each (draw, offset), broadcast against each other."""
    key = np.array([(seed * 0x100 + purpose) & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    with np.errstate(over="ignore"):
        by_draw = mix(mix(key + _GOLDEN) + np.asarray(draw, dtype=np.int64).astype(np.uint64) * _GOLDEN)
        return mix(by_draw + np.asarray(offset, dtype=np.int64).astype(np.uint64) * _GOLDEN)


def hash_number(seed: int, draw: int, offset: int, purpose: Purpose) -> int:
    """What `hash64` gives for one draw and offset, without numpy, whose calls take longer than their work then."""
    golden, number = int(_GOLDEN), seed * 0x100 + purpose
    for added in (golden, draw * golden, offset * golden):
        number = _mix_number((number + added) & _LARGEST)
    return number


def _mix_number(number: int) -> int:
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _LARGEST
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _LARGEST
    return number ^ (number >> 31)


def uniform(seed: int, draw: Ints | int, offset: Ints | int, purpose: Purpose) -> Floats:
    """Uniform numbers in [0, 1), one for each (draw, offset)."""
    return (hash64(seed, draw, offset, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Tokens(NamedTuple):
    """The tokens of a batch that may be masked, in flat order: no special token and no padding is among them."""

    ids: Ints
    """(n,)"""
    example: Ints
    """(n,) what is masked by the same budget: a document's piece, or a row of blocks. Never decreases."""
    offset: Ints
    """(n,) place in the token store."""
    draw: Ints
    """(n,) how often the document was drawn before."""


class Masked(NamedTuple):
    """Noised tokens and which of them are targets."""

    ids: Ints
    """(n,)"""
    chosen: Bools
    """(n,)"""


SPAN_LENGTHS: Floats = 0.8 ** np.arange(10, dtype=np.float64)
"""SpanBERT's lengths in words: geometric (success 0.2), at most 10 (arXiv:1907.10529)."""
NGRAM_LENGTHS: Floats = np.array([1, 1 / 2, 1 / 3])
"""ALBERT's: an n-gram of n words, at most 3, in proportion to 1 / n (arXiv:1909.11942)."""


def span_starts(word_starts: Bools, tokens: Tokens, lengths: Floats, seed: int) -> Bools:
    """Cuts each example into spans of whole words, with lengths drawn from a distribution.

    Cutting the whole text and then choosing spans gives spans that never overlap, without a loop.

    Args:
        word_starts: (n,) true where a word begins.
        tokens: The n tokens.
        lengths: How likely spans of 1, 2, ... words are, in proportion.
        seed: The run's seed.

    Returns:
        (n,) true where a span begins.
    """
    first = np.flatnonzero(word_starts)
    example = tokens.example[first]
    drawn = uniform(seed, tokens.draw[first], tokens.offset[first], Purpose.SPAN)
    words = np.searchsorted(np.cumsum(lengths / lengths.sum())[:-1], drawn, side="right") + 1
    opens = np.flatnonzero(np.diff(example, prepend=-1))
    ends = np.append(opens[1:], len(first))
    sizes = ends - opens
    total = np.cumsum(words)
    before_example = np.repeat(total[opens] - words[opens], sizes)
    boundary = np.repeat(opens, sizes) + total - before_example
    starts = np.zeros(len(first), dtype=np.bool_)
    starts[opens] = True
    starts[boundary[boundary < np.repeat(ends, sizes)]] = True
    spans = np.zeros(len(word_starts), dtype=np.bool_)
    spans[first[starts]] = True
    return spans


def choose(tokens: Tokens, unit_starts: Bools, rate: float, seed: int) -> Ints:
    """Chooses whole units until the budget of each example, `rate` times its tokens, is spent.

    Units are taken in random order; the one that crosses the budget is taken with the probability that makes the
    expected number of tokens exactly the budget. Each example gets at least one unit.

    Args:
        tokens: The n tokens.
        unit_starts: (n,) true where a unit begins; each example begins with one.
        rate: Share of tokens to choose, in (0, 1).
        seed: The run's seed.

    Returns:
        (n,) the index of a chosen token's unit, or -1 where the token is not chosen.
    """
    first = np.flatnonzero(unit_starts)
    length = np.diff(first, append=len(unit_starts))
    example, draw, offset = tokens.example[first], tokens.draw[first], tokens.offset[first]
    order = np.lexsort((hash64(seed, draw, offset, Purpose.CHOOSE), example))
    length, example = length[order], example[order]
    before = np.cumsum(length) - length
    opens = np.flatnonzero(np.diff(example, prepend=-1))
    units = np.diff(opens, append=len(order))
    before -= np.repeat(before[opens], units)
    budget = np.repeat(rate * np.add.reduceat(length, opens), units)
    crossing = uniform(seed, draw, offset, Purpose.LAST)[order]
    chosen = np.zeros(len(first), dtype=np.bool_)
    chosen[order] = (before == 0) | (before + crossing * length < budget)
    unit = np.cumsum(unit_starts) - 1
    return np.where(chosen[unit], unit, -1)


def mask(
    tokens: Tokens,
    unit_starts: Bools,
    *,
    rate: float,
    mask_share: float,
    random_share: float,
    mask_id: int,
    ordinary_ids: Ints,
    seed: int,
) -> Masked:
    """BERT's noise: chosen units become the mask token, random tokens, or stay as they are (arXiv:1810.04805).

    Which of the three is decided for a unit as a whole; random tokens are drawn for each token, never special ones.

    Args:
        tokens: The n tokens that may be masked; at least one.
        unit_starts: (n,) true where a unit (token, word, span or n-gram) begins.
        rate: Share of tokens to choose, in (0, 1).
        mask_share: Share of the chosen units that become the mask token.
        random_share: Share of the chosen units that become random tokens; the rest stays.
        mask_id: The mask token.
        ordinary_ids: Ids that random tokens are drawn from.
        seed: The run's seed.

    Returns:
        The noised ids and the targets.
    """
    unit = choose(tokens, unit_starts, rate, seed)
    chosen = unit >= 0
    targets = np.flatnonzero(chosen)
    first = np.flatnonzero(unit_starts)[unit[targets]]
    kind = uniform(seed, tokens.draw[first], tokens.offset[first], Purpose.KIND)
    drawn = uniform(seed, tokens.draw[targets], tokens.offset[targets], Purpose.REPLACE)
    replacement = ordinary_ids[(drawn * len(ordinary_ids)).astype(np.int64)]
    noised = tokens.ids.copy()
    noised[targets] = np.where(
        kind < mask_share, mask_id, np.where(kind < mask_share + random_share, replacement, tokens.ids[targets])
    )
    return Masked(noised, chosen)
