"""What masking must keep, held against real batches: for `check`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, Rows
from ptm_lightning.data.noise import Bools, Floats, Ints, Tokens
from ptm_lightning.data.show import show_place
from ptm_lightning.data.words_anew import WordsAnew
from ptm_lightning.findings import Finding, faults, mean, share


class Law(NamedTuple):
    """How long units of several words are."""

    name: str
    weights: Floats
    """How likely lengths of 1, 2, ... words are, in proportion."""


LAWS = {"span": Law("a span", 0.8 ** np.arange(10.0)), "ngram": Law("an n-gram", 1 / np.arange(1.0, 4.0))}
"""SpanBERT's, geometric and at most 10 (arXiv:1907.10529); ALBERT's n-grams, by 1 / n (arXiv:1909.11942)."""


@dataclass
class Seen:
    """Counts over batches, and the faults found in them."""

    expected: float = 0.0
    """Targets that the rate asks for, at least one unit in each example."""
    tokens: int = 0
    borders: int = 0
    """Places between two tokens of which it is known whether a word begins there."""
    targets: int = 0
    units: int = 0
    """Chosen ones: words, spans or tokens."""
    masked: int = 0
    """Of these units, those that became the mask token."""
    random: int = 0
    """Of these units, those that became another token."""
    changed_elsewhere: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    wrong_targets: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def masking_findings(
    seen: Sequence[tuple[Rows, Batch]],
    unit_starts: Callable[[Tokens, Rows], Bools],
    text_starts: Callable[[Rows], Bools],
    tokenizer: PreTrainedTokenizerFast,
    *,
    rate: float,
    mask_share: float,
    random_share: float,
    ordinary_ids: Ints,
    words: WordsAnew | None,
) -> Iterator[Finding]:
    """Compares rows before the noise with the batches made of them.

    Args:
        seen: Rows as they were, and the batch.
        unit_starts: True where a unit (token, word or span) begins, (n,) for n tokens.
        text_starts: True where a stretch of text begins, over whose beginning no word goes, (n,).
        tokenizer: For examples in words.
        rate: Share of tokens that was asked for.
        mask_share: Share of the units that become the mask token.
        random_share: Share of the units that become random tokens.
        ordinary_ids: What random tokens may be.
        words: Tells what words are, if these are to stay whole.
    """
    total = Seen()
    for rows, batch in seen:
        _count(total, rows, batch, unit_starts, tokenizer, rate, set(ordinary_ids.tolist()))
        if words is not None:
            _count_torn_words(total, rows, batch, words, text_starts, tokenizer)
    expected = total.expected / max(1, total.tokens)
    yield share("targets among tokens", expected, total.targets, total.tokens)
    # A random token is the old one again once in a vocabulary.
    same = random_share / len(ordinary_ids)
    yield share("targets that become the mask token", mask_share, total.masked, total.units)
    yield share("targets that become random tokens", random_share - same, total.random, total.units)
    kept = total.units - total.masked - total.random
    yield share("targets kept as they are", max(0.0, 1 - mask_share - random_share) + same, kept, total.units)
    for what, examples, among in (
        ("examples without a target", total.without, total.tokens),
        ("special tokens among the targets, or drawn", total.special, total.targets),
        ("tokens changed that are no targets", total.changed_elsewhere, total.tokens),
        ("targets that are not the text", total.wrong_targets, total.targets),
        ("words or spans torn", total.torn, total.units if words is None else total.borders),
    ):
        yield faults(what, examples, among)


def length_findings(
    seen: Sequence[Rows],
    law: Law,
    unit_starts: Callable[[Tokens, Rows], Bools],
    word_starts: Callable[[Tokens, Rows], Bools],
    text_starts: Callable[[Rows], Bools],
) -> Iterator[Finding]:
    """Holds the lengths of spans and n-grams to their law, where the end of a text can't have cut them short.

    Args:
        seen: Rows before the noise.
        law: What the units are.
        unit_starts: True where one begins, (n,) for n tokens.
        word_starts: True where a word begins.
        text_starts: True where a stretch of text begins.
    """
    total = count = 0
    lengths = np.arange(1, len(law.weights) + 1)
    chances = law.weights / law.weights.sum()
    for rows in seen:
        tokens = Tokens(rows.input_ids.ravel()[rows.content], rows.example, rows.offset, rows.draw)
        words = np.flatnonzero(word_starts(tokens, rows))
        units = np.searchsorted(words, np.flatnonzero(unit_starts(tokens, rows)))  # by the number of the first word
        texts = np.searchsorted(words, np.flatnonzero(text_starts(rows)))
        ends = np.append(texts[1:], len(words))[np.searchsorted(texts, units, side="right") - 1]
        whole = units + len(lengths) <= ends
        total += int(np.diff(units, append=len(words))[whole].sum())
        count += int(whole.sum())
    asked = float(chances @ lengths)
    if count:
        yield mean(f"mean words of {law.name}", asked, total, count, sqrt(float(chances @ (lengths - asked) ** 2)))


def _count(
    total: Seen,
    rows: Rows,
    batch: Batch,
    unit_starts: Callable[[Tokens, Rows], Bools],
    tokenizer: PreTrainedTokenizerFast,
    rate: float,
    ordinary: set[int],
) -> None:
    original, noised = rows.input_ids.ravel(), batch["input_ids"].numpy().ravel()
    target = np.zeros(original.size, dtype=np.bool_)
    target[batch["target_index"].numpy()] = True
    content = np.zeros(original.size, dtype=np.bool_)
    content[rows.content] = True
    tokens = Tokens(original[rows.content], rows.example, rows.offset, rows.draw)
    starts = unit_starts(tokens, rows)
    unit = np.cumsum(starts) - 1
    chosen, ids = target[rows.content], noised[rows.content]

    def shown(where: Ints) -> list[str]:
        return [
            f"{show_place(rows.input_ids, place, tokenizer)} became "
            f"{tokenizer.convert_ids_to_tokens(int(noised[place]))!r}"
            for place in where.tolist()
        ]

    total.tokens += len(tokens.ids)
    total.targets += int(chosen.sum())
    first = np.flatnonzero(starts)
    length = np.diff(first, append=len(starts))
    of_example = np.cumsum(np.diff(rows.example, prepend=-1) > 0) - 1
    sizes = np.bincount(of_example)
    units = np.bincount(of_example[first])
    largest = np.maximum(length, rate * sizes[of_example[first]])
    total.expected += float((np.bincount(of_example[first], weights=largest) / units).sum())
    head = first[chosen[first]]
    total.units += len(head)
    total.masked += int((ids[head] == tokenizer.mask_token_id).sum())
    total.random += int(((ids[head] != tokenizer.mask_token_id) & (ids[head] != tokens.ids[head])).sum())
    without = np.flatnonzero(np.bincount(of_example, weights=chosen) == 0)
    total.without += [repr(tokenizer.decode(tokens.ids[of_example == which])) for which in without.tolist()]
    drawn = np.flatnonzero((noised != original) & (noised != tokenizer.mask_token_id))
    foreign = drawn[[int(noised[place]) not in ordinary for place in drawn.tolist()]] if len(drawn) else drawn
    total.special += shown(np.union1d(np.flatnonzero(target & ~content), foreign))
    total.changed_elsewhere += shown(np.flatnonzero((noised != original) & ~target))
    right = np.zeros_like(original)
    right[batch["target_index"].numpy()] = batch["targets"].numpy()
    total.wrong_targets += shown(np.flatnonzero(target & (right != original)))
    parts = np.bincount(unit, weights=chosen)
    torn = np.flatnonzero((parts > 0) & (parts < length))
    total.torn += [repr(tokenizer.convert_ids_to_tokens(tokens.ids[unit == which].tolist())) for which in torn.tolist()]


def _count_torn_words(
    total: Seen,
    rows: Rows,
    batch: Batch,
    words: WordsAnew,
    text_starts: Callable[[Rows], Bools],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Words of which a part is a target, and a part is none."""
    original = rows.input_ids.ravel()
    target = np.zeros(original.size, dtype=np.bool_)
    target[batch["target_index"].numpy()] = True
    for places in np.split(rows.content, np.flatnonzero(text_starts(rows))[1:]):
        goes_on, known = words.go_on(original[places])
        total.borders += known
        torn = np.flatnonzero(goes_on[1:] & (target[places[1:]] != target[places[:-1]])) + 1
        total.torn += [
            f"within a word: {show_place(rows.input_ids, place, tokenizer)}" for place in places[torn].tolist()
        ]
