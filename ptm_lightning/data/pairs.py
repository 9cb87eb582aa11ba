"""Rows of two segments: BERT's next sentences and ALBERT's sentence orders, made of whole sentences.

Shapes: d documents, s sentences, r rows; a row is a first segment of whole sentences and a second one.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Bools, Floats, Ints, Purpose, hash64, uniform
from ptm_lightning.data.store import TokenStore
from ptm_lightning.errors import UserError

TRIES = 10
"""How often another document is drawn when the text found there is the true next one."""


class Sentences(NamedTuple):
    """The sentences of some documents, in reading order."""

    begin: Ints
    """(s,) place in the token store."""
    end: Ints
    """(s,)"""
    first: Ints
    """(d + 1,) the first sentence of each document."""


def sentences_of(store: TokenStore, start: Ints, length: Ints) -> Sentences:
    """The sentences of documents, given as (d,) where they begin in the store and (d,) their tokens."""
    assert store.sentence_starts is not None
    low = np.searchsorted(store.sentence_starts, start)
    count = np.searchsorted(store.sentence_starts, start + length) - low
    first = np.append(0, np.cumsum(count))
    begin = store.sentence_starts[np.repeat(low - first[:-1], count) + np.arange(first[-1])]
    end = np.append(begin[1:], 0)
    end[first[1:] - 1] = start + length
    return Sentences(begin, end, first)


class Examples(NamedTuple):
    """Rows as stretches of sentences: the first segment is [at, middle), what follows it is [middle, stop)."""

    at: Ints
    """(r,)"""
    middle: Ints
    """(r,)"""
    stop: Ints
    """(r,)"""


def cut_examples(sentences: Sentences, target: Ints, split: Floats, put_back: Bools) -> Examples:
    """Fills examples with whole sentences up to a target length, as BERT's create_pretraining_data does.

    An example has two sentences at least, so that its label is free; a single one left at the end of a document is in
    none.

    Args:
        sentences: The s sentences of d documents.
        target: (d,) tokens of an example, at which no more sentences are added.
        split: (s,) numbers in [0, 1), by an example's first sentence: after which sentence the first segment ends.
        put_back: (s,) by an example's first sentence: whether the next example begins where the first segment ends.

    Returns:
        r examples.
    """
    begin, end, first = (column.tolist() for column in sentences)
    splits, backs = split.tolist(), put_back.tolist()
    found: list[tuple[int, int, int]] = []
    for document, wanted in enumerate(target.tolist()):
        at, last = first[document], first[document + 1] - 1
        while at < last:
            stop = bisect_left(end, begin[at] + wanted, at + 1, last) + 1
            middle = at + 1 + int(splits[at] * (stop - at - 1))
            found.append((at, middle, stop))
            at = middle if backs[at] else stop
    return Examples(*np.array(found, dtype=np.int64).reshape(-1, 3).T)


class Segments(NamedTuple):
    """Rows as stretches of the token store."""

    start: Ints
    """(r, 2)"""
    length: Ints
    """(r, 2)"""


def truncate(segments: Segments, room: int, draw: Ints, key: Ints, seed: int) -> Segments:
    """Takes tokens from the longer segment until both fit, each from the front or the back at random, as BERT does.

    Args:
        segments: r rows.
        room: Tokens of the two together.
        draw: (r,) how often the document was drawn before.
        key: (r,) a place in the token store that no other row has.
        seed: The run's seed.

    Returns:
        The rows, at most `room` tokens long.
    """
    one, two = segments.length.T
    length = np.stack(
        [
            np.minimum(one, np.maximum(room - two, room - room // 2)),
            np.minimum(two, np.maximum(room - one, room // 2)),
        ],
        axis=1,
    )
    removed = segments.length - length
    front = [
        heads(removed[:, i], draw, key, purpose, seed)
        for i, purpose in enumerate((Purpose.CUT_FIRST, Purpose.CUT_SECOND))
    ]
    return Segments(segments.start + np.stack(front, axis=1), length)


def heads(coins: Ints, draw: Ints, key: Ints, purpose: Purpose, seed: int) -> Ints:
    """(r,) how many of (r,) coins show heads: bits of a hash, 64 at a time."""
    words = -(-coins // 64)
    row = np.repeat(np.arange(len(coins)), words)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(words) - words, words)
    bits = hash64(seed, hash64(seed, draw, key, purpose).view(np.int64)[row], nth, purpose)
    unused = np.maximum(64 * (nth + 1) - coins[row], 0).astype(np.uint64)
    return np.bincount(row, weights=np.bitwise_count(bits >> unused), minlength=len(coins)).astype(np.int64)


@dataclass(frozen=True)
class LayOutPairs:
    """Makes rows of two segments of documents: two pieces each, the first opened by [CLS], both closed by [SEP].

    Half of the rows, at random, are negative. Documents of one sentence give no rows.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - ALBERT, 2019, https://arxiv.org/abs/1909.11942
    """

    store: TokenStore
    frame: Frame
    max_length: int
    short_share: float
    """Share of the documents whose rows are shorter, by a random length."""
    swapped: bool
    """Whether a negative row has its segments swapped (ALBERT); else the second is of another document (BERT)."""
    seed: int

    @property
    def room(self) -> int:
        """Tokens of the two segments."""
        return self.max_length - len(self.frame) - len(self.frame.after)

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """Lays documents out; see `LayOut`.

        Raises:
            UserError: No pair can be made of them.
        """
        sentences = sentences_of(self.store, start, length)
        target = self._targets(draw, start)
        document = np.repeat(np.arange(len(start)), np.diff(sentences.first))
        split = uniform(self.seed, draw[document], sentences.begin, Purpose.SPLIT)
        negative = uniform(self.seed, draw[document], sentences.begin, Purpose.NEGATIVE) < 0.5
        examples = cut_examples(sentences, target, split, negative & (not self.swapped))
        at, middle, stop = examples
        begin, between, end = sentences.begin[at], sentences.begin[middle], sentences.end[stop - 1]
        segments = Segments(np.stack([begin, between], axis=1), np.stack([between - begin, end - between], axis=1))
        document, negative = document[at], negative[at]
        if self.swapped:
            columns = np.where(negative[:, None], [1, 0], [0, 1])
            segments = Segments(*(np.take_along_axis(column, columns, axis=1) for column in segments))
        else:
            true_length = sentences.end[middle] - between
            kept = self._replace_seconds(
                segments, np.flatnonzero(negative), target[document], true_length, draw[document]
            )
            segments, document, begin = Segments(*(column[kept] for column in segments)), document[kept], begin[kept]
        if len(start) and not len(begin):
            raise UserError(
                f"--data: no pair of segments can be made of {len(start)} documents; give documents of several "
                "sentences that differ from each other (--data.split_text blank_line keeps lines together)"
            )
        return as_pieces(truncate(segments, self.room, draw[document], begin, self.seed), draw[document])

    def _targets(self, draw: Ints, start: Ints) -> Ints:
        """(d,) tokens of the two segments of each document's rows: all there is room for, or a random number."""
        short = uniform(self.seed, draw, start, Purpose.SHORT) < self.short_share
        drawn = 2 + (uniform(self.seed, draw, start, Purpose.SHORT_LENGTH) * (self.room - 1)).astype(np.int64)
        return np.where(short, drawn, self.room)

    def _replace_seconds(self, segments: Segments, rows: Ints, target: Ints, true_length: Ints, draw: Ints) -> Bools:
        """Puts whole sentences of other documents of the store, from a random one on, into the place of some seconds.

        A text that begins as the true one does would be labelled wrongly: it is drawn again.

        Args:
            segments: r rows, changed in place.
            rows: (m,) those that get another second segment.
            target: (r,) tokens of a row at which no more sentences are added.
            true_length: (r,) tokens of the sentence that really comes next.
            draw: (r,) how often the document was drawn before.

        Returns:
            (r,) false where only the true text was found.
        """
        store, starts = self.store, self.store.sentence_starts
        assert starts is not None
        kept = np.ones(len(segments.start), dtype=np.bool_)
        kept[rows] = False
        true_start = segments.start[:, 1].copy()
        own = np.searchsorted(store.offsets, segments.start[:, 0], side="right") - 1
        numbers = hash64(self.seed, draw, segments.start[:, 0], Purpose.OTHER).view(np.int64)
        for attempt in range(TRIES):
            number = numbers[rows]
            step = (uniform(self.seed, number, attempt, Purpose.OTHER) * (len(store) - 1)).astype(np.int64)
            other = (own[rows] + 1 + step) % len(store)
            low, high = (np.searchsorted(starts, store.offsets[other + side]) for side in (0, 1))
            nth = low + (uniform(self.seed, number, attempt, Purpose.SENTENCE) * (high - low)).astype(np.int64)
            begin, limit = starts[nth], store.offsets[other + 1]
            end = _border(starts, begin + np.maximum(1, target - segments.length[:, 0])[rows], limit)
            segments.start[rows, 1], segments.length[rows, 1] = begin, end - begin
            sentence = np.minimum(_border(starts, begin + 1, limit) - begin, true_length[rows])
            # A segment that is cut keeps half of the room at least.
            same = _equal(store.tokens, begin, true_start[rows], np.minimum(sentence, max(1, self.room // 2)))
            kept[rows[~same]] = True
            rows = rows[same]
        return kept


def as_pieces(segments: Segments, draw: Ints) -> Pieces:
    """Two pieces for each of r rows; `draw` is (r,)."""
    rows = np.arange(len(draw))
    first = np.tile([True, False], len(draw))
    return Pieces(
        segments.start.ravel(),
        segments.length.ravel(),
        np.repeat(draw, 2),
        np.repeat(rows, 2),
        first,
        np.ones_like(first),
    )


def follows(pieces: Pieces, offsets: Ints) -> Bools:
    """(r,) whether a row's second segment stands after its first one in the same document.

    Args:
        pieces: Two for each of r rows.
        offsets: (documents + 1,) where each document begins in the token store.
    """
    first, second = pieces.start.reshape(-1, 2).T
    return np.asarray((first < second) & (second < offsets[np.searchsorted(offsets, first, side="right")]))


def _border(starts: Ints, place: Ints, limit: Ints) -> Ints:
    """The first beginning of a sentence that isn't before a place, or the limit if that is nearer."""
    index = np.searchsorted(starts, place)
    return np.where(index < len(starts), np.minimum(starts[np.minimum(index, len(starts) - 1)], limit), limit)


def _equal(tokens: NDArray[np.unsignedinteger], one: Ints, two: Ints, length: Ints) -> Bools:
    """(n,) whether two stretches of the store, given as (n,) places and lengths above 0, hold the same."""
    row = np.repeat(np.arange(len(length)), length)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    differs = tokens[one[row] + nth] != tokens[two[row] + nth]
    return np.asarray(np.bincount(row, weights=differs, minlength=len(length)) == 0)
