"""T5's noise: spans of a text become sentinels, and the targets say what stood there (arXiv:1910.10683).

Shapes: R rows, n content tokens in flat order, m tokens of framed rows, t target tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Bools, Floats, Ints, Purpose, hash64, uniform
from ptm_lightning.data.seq2seq import FlatRows, Ragged, flat_rows, seq2seq_batch
from ptm_lightning.data.store import TokenStore
from ptm_lightning.errors import UserError, suggest


class Denoiser(NamedTuple):
    """A kind of noise. UL2 mixes several (arXiv:2205.05131)."""

    density: float = 0.15
    """Share of the tokens that are noise."""
    mean_span: float = inf
    """Mean length of a span; infinite for a single span, which is the end of the text: a prefix language model."""
    weight: float = 1.0
    """How often it is drawn, beside the others."""
    mode: str | None = None
    """R, S, X: the token [R] before the text then tells the network which noise to expect."""

    @property
    def token(self) -> str | None:
        """The token of the mode."""
        return None if self.mode is None else f"[{self.mode}]"


def read_denoiser(given: Mapping[str, Any]) -> Denoiser:
    """A kind of noise, from what the user gives.

    Raises:
        UserError: It has other fields, or numbers that make no noise.
    """
    if unknown := set(given) - set(Denoiser._fields):
        word = min(unknown)
        raise UserError(f"--data.denoisers: there is no {word!r}; {suggest(word, Denoiser._fields)}")
    kind = Denoiser(**given)
    check_noise("denoisers: density", kind.density, "denoisers: mean_span", kind.mean_span)
    if not kind.weight > 0:
        raise UserError(f"--data.denoisers: weight {kind.weight}: give a number above 0")
    return kind


def check_noise(density_flag: str, density: float, span_flag: str, mean_span: float) -> None:
    """Refuses numbers that make no noise, by the names of their flags."""
    if not 0 < density < 1:
        raise UserError(f"--data.{density_flag} {density}: give a share between 0 and 1, such as 0.15")
    if mean_span < 1:
        raise UserError(f"--data.{span_flag} {mean_span}: give at least 1 token, such as 3")


class Corrupted(NamedTuple):
    """What the encoder reads and the decoder shall say."""

    inputs: Ints
    """(k,)"""
    input_row: Ints
    """(k,)"""
    targets: Ints
    """(t,)"""
    target_row: Ints
    """(t,)"""
    source: Ints
    """(t,) the place among the m tokens that a target repeats; -1 for sentinels and the end."""


def span_counts(length: Ints, density: Floats | float, mean_span: Floats | float) -> tuple[Ints, Ints]:
    """How many tokens of a text are noise, and in how many spans: exact numbers, as in T5's code.

    Args:
        length: (R,) tokens of each text.
        density: Share of noise, of all or of each.
        mean_span: Mean length of a span, of all or of each; infinite for a single span.

    Returns:
        (R,) noise tokens and (R,) spans. A text of one token has none: noise never comes first.
    """
    noise = np.minimum(np.maximum(np.round(length * density), 1), length - 1).astype(np.int64)
    spans = np.maximum(np.round(noise / mean_span), 1).astype(np.int64)
    return noise, np.minimum(spans, np.minimum(noise, length - noise))


def corrupted_lengths(length: Ints, density: float, mean_span: float) -> tuple[Ints, Ints]:
    """(R,) tokens of a text that the encoder still reads, and (R,) those that the decoder says, without any frame."""
    noise, spans = span_counts(length, density, mean_span)
    return length - noise + spans, noise + spans


def longest_text(inputs: int, targets: int, kinds: Sequence[Denoiser]) -> int:
    """The longest text whose corrupted sides fit: 568 tokens for 511 and an end of the encoder, at T5's noise.

    Args:
        inputs: Tokens that the encoder can read, the frame not counted.
        targets: Tokens that the decoder can say, the end not counted.
        kinds: All noise that the text may get.

    Returns:
        Tokens, 0 if not even two fit.
    """
    lengths = np.arange(2, max(inputs + targets, 1) + 1)
    fits = np.ones(len(lengths), dtype=np.bool_)
    for kind in kinds:
        kept, said = corrupted_lengths(lengths, kind.density, kind.mean_span)
        fits &= (kept <= inputs - (kind.mode is not None)) & (said <= targets)
    return int(lengths[fits].max(initial=0))


def draw_kinds(weights: Floats, draw: Ints, offset: Ints, seed: int) -> Ints:
    """Which of D kinds of noise each row gets.

    Args:
        weights: (D,) how often each is drawn.
        draw: (R,) how often the document of a row's first token was drawn before.
        offset: (R,) that token's place in the token store.
        seed: The run's seed.

    Returns:
        (R,) from 0 to D - 1.
    """
    shares = np.cumsum(weights / weights.sum())
    return np.searchsorted(shares[:-1], uniform(seed, draw, offset, Purpose.DENOISER), side="right").astype(np.int64)


def noise_spans(length: Ints, noise: Ints, spans: Ints, *, draw: Ints, offset: Ints, seed: int) -> Bools:
    """Chooses the noise: each row is cut into text and noise in turn, text first, uniformly among all ways.

    T5's `random_spans_noise_mask`: the noise tokens are cut into `spans` segments that aren't empty, the others too,
    and the segments alternate.

    Args:
        length: (R,) tokens of each row; they sum to n.
        noise: (R,) how many of them are noise.
        spans: (R,) in how many spans.
        draw: (n,) how often a token's document was drawn before.
        offset: (n,) its place in the token store.
        seed: The run's seed.

    Returns:
        (n,) true for noise.
    """
    row = np.repeat(np.arange(len(length)), length)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    is_noise = nth < noise[row]  # the noise tokens are dealt out first: which these are is decided below
    group = 2 * row + ~is_noise
    opens = np.diff(group, prepend=-1) > 0
    key = hash64(seed, draw, offset, Purpose.SPAN_CUT)
    key[opens] = 0  # a segment begins with the first of each group
    order = np.lexsort((key, group))
    first = np.maximum.accumulate(np.where(opens, np.arange(len(row)), 0))
    begins = np.zeros(len(row), dtype=np.bool_)
    begins[order] = np.arange(len(row)) - first < np.maximum(spans, 1)[row]
    begun = np.cumsum(begins)
    segment: Ints = begun - begun[first]
    place = (row * (int(spans.max(initial=0)) + 1) + segment) * 2 + is_noise
    return np.asarray(is_noise[np.argsort(place, kind="stable")])


def corrupt(ids: Ints, row: Ints, noise: Bools, sentinels: Ints) -> Corrupted:
    """Puts a sentinel in the place of each span, and makes the targets: every sentinel, then what stood there.

    The targets end with the row's last token. As the noise comes last in a row, no sentinel closes them.

    Args:
        ids: (m,) rows with their special tokens; the last token of each is the end.
        row: (m,) never decreases.
        noise: (m,) true for noise; no special token is, and no row begins with noise.
        sentinels: (s,) in the order of their use, at least as many as a row has spans.

    Returns:
        Both sides; from them `restore` makes the rows again.
    """
    begins = noise & ~np.append(False, noise[:-1])
    nth = np.cumsum(begins)
    before_row = np.searchsorted(row, row)
    sentinel = sentinels[(nth - nth[before_row] - 1)[begins]]
    kept = ~noise | begins
    inputs = ids.copy()
    inputs[begins] = sentinel

    ends = np.diff(row, append=row[-1] + 1) > 0
    times = noise.astype(np.int64) + begins + ends
    source = np.repeat(np.arange(len(ids)), times)
    targets = ids[source]
    at = (np.cumsum(times) - times)[begins]
    targets[at] = sentinel
    target_row = row[source]
    source[at] = -1
    source[np.flatnonzero(np.diff(target_row, append=row[-1] + 1))] = -1
    return Corrupted(inputs[kept], row[kept], targets, target_row, source)


@dataclass(frozen=True)
class SpanCollate:
    """Pieces of documents to a batch with T5's noise."""

    store: TokenStore
    frame: Frame
    kinds: tuple[Denoiser, ...]
    modes: Ints
    """The mode token of each kind of noise; empty if they have none."""
    sentinels: Ints
    pad_id: int
    seed: int
    evaluate: bool
    """Sentences that training doesn't contain are marked."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch."""
        text = self.rows(pieces)
        length = np.bincount(text.row[text.content])
        density, mean_span = (np.array([kind[i] for kind in self.kinds], dtype=np.float64) for i in range(2))
        kind = self.kinds_of(text)
        counts = span_counts(length, density[kind], mean_span[kind])
        noise = np.zeros(len(text.ids), dtype=np.bool_)
        noise[text.content] = noise_spans(length, *counts, draw=text.draw, offset=text.offset, seed=self.seed)
        found = corrupt(text.ids, text.row, noise, self.sentinels)
        inputs = Ragged(found.inputs, found.input_row)
        if len(self.modes):
            rows = np.arange(len(length))
            at = np.searchsorted(inputs.row, rows) + len(self.frame.before)
            inputs = Ragged(np.insert(inputs.ids, at, self.modes[kind]), np.insert(inputs.row, at, rows))
        batch = seq2seq_batch(
            inputs,
            Ragged(found.targets, found.target_row),
            pad_id=self.pad_id,
            counts={"spans": len(found.targets), "tokens": len(text.ids)},
        )
        if self.evaluate and self.store.fresh is not None:
            fresh = np.zeros(len(text.ids), dtype=np.bool_)
            fresh[text.content] = self.store.fresh[text.offset]
            batch["fresh"] = torch.from_numpy(fresh[found.source] & (found.source >= 0))
        return batch

    def rows(self, pieces: Pieces) -> FlatRows:
        """The rows before the noise."""
        return flat_rows(pieces, self.store, self.frame)

    def kinds_of(self, text: FlatRows) -> Ints:
        """(R,) which kind of noise each row gets."""
        length = np.bincount(text.row[text.content])
        first = np.cumsum(length) - length
        weights = np.array([kind.weight for kind in self.kinds])
        return draw_kinds(weights, text.draw[first], text.offset[first], self.seed)


def split_spans(targets: list[int], sentinels: list[int]) -> dict[int, list[int]]:
    """What targets, or an answer, say for each sentinel; the first time counts."""
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    known = set(sentinels)
    for token in targets:
        if token in known:
            current = spans.setdefault(token, []) if token not in spans else []
        else:
            current.append(token)
    return spans


def restore(inputs: list[int], targets: list[int], sentinels: list[int]) -> list[int]:
    """The text again: each sentinel of the inputs gives way to what the targets (without their end) say for it."""
    spans = split_spans(targets, sentinels)
    return [token for given in inputs for token in spans.get(given, [given])]
