"""BART's noise: sentences in another order, and spans of words that become one mask each (arXiv:1910.13461).

Shapes: n content tokens in flat order, row after row; w words, s spans.
"""

from dataclasses import dataclass
from math import exp
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.noise import Bools, Floats, Ints, Purpose, hash64, uniform
from ptm_lightning.data.sentence_marks import FULL_STOPS
from ptm_lightning.data.store import TokenStore


class Place(NamedTuple):
    """What the random numbers of tokens depend on."""

    row: Ints
    """(n,) never decreases."""
    draw: Ints
    """(n,) how often a token's document was drawn before."""
    offset: Ints
    """(n,) its place in the token store."""

    def at(self, index: Ints) -> "Place":
        """Those of some tokens."""
        return Place(self.row[index], self.draw[index], self.offset[index])


class Spans(NamedTuple):
    """Spans of words, sorted by row and place; those of no words are places where a mask is put in."""

    row: Ints
    """(s,)"""
    start: Ints
    """(s,) the number of the first word, counted in its row; the row's number of words where the row ends."""
    length: Ints
    """(s,) in words."""


class Infilling(NamedTuple):
    """What is done to the rows of a batch: their sentences are put in an order, then spans of words give way."""

    order: Ints
    """(n,) the content tokens in their new order, as indices into the old."""
    word_starts: Bools
    """(n,) where words begin in the new order."""
    spans: Spans


def full_stops(tokenizer: PreTrainedTokenizerFast) -> Bools:
    """Which tokens end a sentence: those whose text ends in a full stop, question or exclamation mark.

    Returns:
        (vocabulary,)
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    table = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
    decoder = tokenizer.backend_tokenizer.decoder
    for token, i in vocabulary.items():
        text = decoder.decode([token]) if decoder is not None else token
        table[i] = text[-1:] in FULL_STOPS and bool(text)
    table[tokenizer.all_special_ids] = False
    return table


class SentenceBegins(Protocol):
    """Tells where sentences begin. It goes to the workers: picklable."""

    def __call__(self, ids: Ints, offset: Ints) -> Bools:
        """Takes (n,) ids and (n,) places in the token store; (n,) true where a token begins a sentence."""


@dataclass(frozen=True)
class AfterFullStops:
    """A sentence begins after the last full stop of a run, as in fairseq."""

    full_stops: Bools
    """(vocabulary,) which tokens end sentences."""

    def __call__(self, ids: Ints, offset: Ints) -> Bools:
        """The places after full stops."""
        ends = self.full_stops[ids]
        return np.append(False, ends[:-1] & ~ends[1:])


@dataclass(frozen=True)
class AsStored:
    """A sentence begins where the token store says so."""

    store: TokenStore

    def __call__(self, ids: Ints, offset: Ints) -> Bools:
        """The places that the store names."""
        starts = self.store.sentence_starts
        assert starts is not None
        return np.asarray(starts[np.minimum(np.searchsorted(starts, offset), len(starts) - 1)] == offset)


def sentence_order(begins: Bools, place: Place, seed: int) -> tuple[Ints, Bools]:
    """Puts the sentences of each row in random order.

    Args:
        begins: (n,) true where a sentence begins; a row always begins one.
        place: The n tokens.
        seed: The run's seed.

    Returns:
        (n,) the tokens in their new order, as indices into the old, and (n,) where a sentence begins in the new order.
    """
    begins = begins | (np.diff(place.row, prepend=-1) > 0)
    first = np.flatnonzero(begins)
    at = place.at(first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((hash64(seed, at.draw, at.offset, Purpose.SENTENCE_ORDER), at.row))] = np.arange(len(first))
    order = np.argsort(rank[np.cumsum(begins) - 1], kind="stable")
    return order, begins[order]


def choose_spans(words: Ints, place: Place, *, rate: float, mean_span: float, seed: int) -> Spans:
    """Draws spans with Poisson lengths until a share of each row's words is spent, and drops them at random places.

    The number of words is exact, `rate` of the row rounded up: the last span is cut. Spans don't overlap; each falls
    into any of the gaps between the words that stay, with equal chance. Of the spans of no words as many are kept as
    leave the corrupted row no longer than the row.

    Args:
        words: (R,) words of each row; they sum to w.
        place: The first tokens of the w words.
        rate: Share of the words to cover.
        mean_span: Mean of the Poisson distribution.
        seed: The run's seed.
    """
    last = np.cumsum(words) - 1
    begin = last - words + 1
    budget = np.ceil(np.round(rate * words, 9)).astype(np.int64)
    length = _poisson(uniform(seed, place.draw, place.offset, Purpose.SPAN_LENGTH), mean_span)
    before = _before(length, begin, words)
    left = np.maximum(budget[place.row] - before, 0)
    taken = left > 0
    length = np.minimum(length, left)
    length[last] = np.where(taken[last], left[last], 0)  # few words and short draws: the last one takes the rest
    covers = taken & (length > 0)
    spare = budget - np.add.reduceat(covers.astype(np.int64), begin)
    empty = taken & (length == 0)
    drawn = covers | (empty & (_before(empty.astype(np.int64), begin, words) < spare[place.row]))

    row, length = place.row[drawn], length[drawn]
    gaps = (words - budget + 1)[row]
    gap = (uniform(seed, place.draw[drawn], place.offset[drawn], Purpose.SPAN_PLACE) * gaps).astype(np.int64)
    order = np.lexsort((gap, row))
    row, gap, length = row[order], gap[order], length[order]
    per_row = np.bincount(row, minlength=len(words))
    return Spans(row, gap + _before(length, np.cumsum(per_row) - per_row, per_row), length)


def infill(ids: Ints, row: Ints, content: Bools, word_starts: Bools, spans: Spans, mask_id: int) -> tuple[Ints, Ints]:
    """Puts one mask in the place of each span.

    Args:
        ids: (m,) rows with their special tokens.
        row: (m,) never decreases.
        content: (m,) false for special tokens; the content of a row is one stretch.
        word_starts: (n,) true where a word begins.
        spans: The rows' spans.
        mask_id: The mask.

    Returns:
        (k,) ids, and (k,) their rows.
    """
    where = np.flatnonzero(content)
    first = where[word_starts]
    words = np.bincount(row[first], minlength=int(row[-1]) + 1)
    begin = np.cumsum(words) - words
    ends = where[np.diff(row[where], append=-1) != 0] + 1  # after each row's content
    word = begin[spans.row] + spans.start
    place = np.where(spans.start < words[spans.row], np.append(first, 0)[word], ends[spans.row])
    covered = np.zeros(len(first) + 1, dtype=np.int64)
    np.add.at(covered, word, spans.length > 0)
    np.add.at(covered, word + spans.length, -(spans.length > 0).astype(np.int64))
    hidden = np.zeros(len(ids), dtype=np.bool_)
    hidden[where] = (np.cumsum(covered)[:-1] > 0)[np.cumsum(word_starts) - 1]
    kept = np.flatnonzero(~hidden)
    at = np.searchsorted(kept, place)
    return np.insert(ids[kept], at, mask_id), np.insert(row[kept], at, spans.row)


def _before(numbers: Ints, begin: Ints, sizes: Ints) -> Ints:
    """The sum of the numbers before each one in its group; groups follow each other."""
    total = np.cumsum(numbers) - numbers
    return np.asarray(total - np.repeat(np.append(total, 0)[begin], sizes))


def _poisson(u: Floats, mean: float) -> Ints:
    """Poisson numbers by inversion."""
    shares: list[float] = [exp(-mean)]
    while sum(shares) < 1 - 1e-12 and len(shares) < 1000:
        shares.append(shares[-1] * mean / len(shares))
    cumulative: npt.NDArray[np.float64] = np.cumsum(shares)
    return np.searchsorted(cumulative[:-1], u, side="right").astype(np.int64)
