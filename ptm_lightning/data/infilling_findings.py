"""What BART's noise must keep, held against real batches: for `check`."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import exp, factorial, sqrt
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.infilling import Infilling, SentenceBegins
from ptm_lightning.data.layout import Frame
from ptm_lightning.data.seq2seq import FlatRows
from ptm_lightning.data.seq2seq_findings import Seq2SeqRow, excerpts, framed
from ptm_lightning.data.words_anew import WordsAnew
from ptm_lightning.findings import Finding, faults, mean, share

ENOUGH_WORDS = 16
"""In shorter rows the spans are cut so often that their lengths say nothing."""


class PlannedRow(NamedTuple):
    """A row of a batch, and what was to be done to it."""

    sides: Seq2SeqRow
    order: list[int]
    """The tokens of the text in their new order."""
    words: list[list[int]]
    """In the new order, each a list of places in the text."""
    spans: list[tuple[int, int]]
    """Those that give way: the first word, and how many."""
    sentences: list[tuple[int, int]]
    """Where those begin and end in the text that may be put in another order."""


def planned_rows(
    rows: Sequence[Seq2SeqRow], text: FlatRows, infilling: Infilling, begins: SentenceBegins | None, frame: Frame
) -> Iterator[PlannedRow]:
    """The rows of a batch, each with its part of what was to be done to them all."""
    ids = text.ids[text.content]
    begin_one = np.zeros(len(ids), dtype=np.bool_) if begins is None else begins(ids, text.offset)
    begin = 0
    for number, row in enumerate(rows):
        end = begin + len(row.text) - len(frame)
        order = (infilling.order[begin:end] - begin).tolist()
        first = [*np.flatnonzero(infilling.word_starts[begin:end]).tolist(), end - begin]
        mine = infilling.spans.row == number
        spans = zip(infilling.spans.start[mine].tolist(), infilling.spans.length[mine].tolist(), strict=True)
        words = [order[a:b] for a, b in pairwise(first)]
        inner = (1 + np.flatnonzero(begin_one[begin + 1 : end])).tolist()
        yield PlannedRow(row, order, words, list(spans), list(pairwise([0, *inner, end - begin])))
        begin = end


def infilling_findings(
    rows: Sequence[PlannedRow],
    frame: Frame,
    tokenizer: PreTrainedTokenizerFast,
    *,
    rate: float,
    mean_span: float,
) -> Iterator[Finding]:
    """Holds the plan to what was asked for, and the batches to the plan.

    Args:
        rows: Rows of all batches.
        frame: The special tokens around a text.
        tokenizer: For words, and for examples in words.
        rate: Share of the words that was to be hidden.
        mean_span: Mean of the Poisson distribution.
    """
    yield _hidden_words(rows, rate)
    yield from _span_lengths([row for row in rows if len(row.words) >= ENOUGH_WORDS], mean_span)
    yield from _sentence_orders(rows, frame, tokenizer)
    yield _torn_words(rows, frame, tokenizer)
    mask_id = tokenizer.mask_token_id
    for what, wrong in (
        (
            "inputs that are not the text, masks aside",
            [row.sides for row in rows if row.sides.inputs != _infilled(row, frame, mask_id)],
        ),
        ("rows whose special tokens are changed", [row.sides for row in rows if not framed(row.sides.inputs, frame)]),
        ("targets that are not the text", [row.sides for row in rows if row.sides.targets != row.sides.text]),
    ):
        yield faults(what, excerpts(wrong, tokenizer), len(rows))


def _torn_words(rows: Sequence[PlannedRow], frame: Frame, tokenizer: PreTrainedTokenizerFast) -> Finding:
    """What is taken for a word, but begins within one."""
    anew, torn, borders = WordsAnew(tokenizer), [], 0
    for row in rows:
        ids = row.sides.text[len(frame.before) :][: len(row.order)]
        goes_on, known = anew.go_on(np.array(ids, dtype=np.int64))
        inner = set(np.flatnonzero(goes_on).tolist()) - {first for first, _ in row.sentences}
        torn += [repr(_words(ids, word, tokenizer)) for word in row.words if word[0] in inner]
        borders += known
    return faults("words torn", torn, borders)


def _hidden_words(rows: Sequence[PlannedRow], rate: float) -> Finding:
    """The share of words that are hidden; it is no matter of chance, but rounded up in each row."""
    hidden = [sum(length for _, length in row.spans) for row in rows]
    wrong = [
        f"{count} of {len(row.words)} words are hidden"
        for count, row in zip(hidden, rows, strict=True)
        if not -1e-6 <= count - rate * len(row.words) < 1
    ]
    found = sum(hidden) / max(1, sum(len(row.words) for row in rows))
    return Finding("words hidden, rounded up in each row", f"{rate:.2%}", f"{found:.2%}", wrong[0] if wrong else "")


def _span_lengths(rows: Sequence[PlannedRow], mean_span: float) -> Iterator[Finding]:
    """Lengths are from a Poisson distribution, but the last one is cut to keep the number of words.

    With a mean below 1 most rows run out of words to draw for, and the lengths aren't left to chance.
    """
    lengths = [length for row in rows for _, length in row.spans]
    if mean_span < 1 or not lengths:
        return
    hiding = sum(length > 0 for length in lengths)
    budgets = [sum(length for _, length in row.spans) for row in rows]
    spans = expected_spans(max(budgets), mean_span)
    asked = sum(budgets) / sum(spans[budget] for budget in budgets)
    yield mean("words behind a mask that hides any", asked, sum(budgets), hiding, asked / sqrt(mean_span))
    yield share("masks that hide nothing", exp(-mean_span), len(lengths) - hiding, len(lengths))


def expected_spans(budget: int, mean_span: float) -> list[float]:
    """How many spans of one word or more are drawn, on average, until as many words as 0, 1, ... `budget` are spent."""
    shares = [exp(-mean_span)]
    for length in range(1, budget + 1):
        shares.append(shares[-1] * mean_span / length)
    spans = [0.0]
    for left in range(1, budget + 1):
        after = sum(shares[length] * spans[left - length] for length in range(1, left))
        spans.append(1 + after / (1 - shares[0]))
    return spans


def _sentence_orders(rows: Sequence[PlannedRow], frame: Frame, tokenizer: PreTrainedTokenizerFast) -> Iterator[Finding]:
    """Sentences stay whole, and are in another order as often as chance has it."""
    torn: list[str] = []
    moved, several, asked = 0, 0, 0.0
    for row in rows:
        ids, ends, place = row.sides.text[len(frame.before) :], dict(row.sentences), 0
        while place < len(row.order):
            first = row.order[place]
            sentence = list(range(first, ends.get(first, first + 1)))
            if first not in ends or row.order[place : place + len(sentence)] != sentence:
                torn.append(_words(ids, row.order[place : place + 20], tokenizer))
                break
            place += len(sentence)
        several += len(row.sentences) > 1
        moved += row.order != sorted(row.order)
        asked += 1 - 1 / factorial(min(len(row.sentences), 20))
    yield faults("sentences torn", torn, len(rows))
    if any(len(row.sentences) > 1 for row in rows):
        yield share("rows whose sentences are in another order", asked / several, moved, several)


def _infilled(row: PlannedRow, frame: Frame, mask_id: int) -> list[int]:
    """The row as the encoder should read it, word by word."""
    text = row.sides.text[len(frame.before) :]
    hidden = {word for start, length in row.spans for word in range(start, start + length)}
    inputs = list(frame.before)
    for number in range(len(row.words) + 1):
        inputs += [mask_id for start, _ in row.spans if start == number]
        if number < len(row.words) and number not in hidden:
            inputs += [text[place] for place in row.words[number]]
    return [*inputs, *frame.after]


def _words(ids: list[int], places: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode([ids[place] for place in places]))
