"""BART's noise, against a loop that builds each row word by word."""

from collections import Counter
from collections.abc import Callable
from math import ceil, exp, factorial
from typing import Any

import numpy as np
import pytest

from ptm_lightning.data.infilling import AfterFullStops, Place, choose_spans, full_stops, infill, sentence_order
from ptm_lightning.data.infilling_findings import expected_spans
from ptm_lightning.data.tokenizer_training import train_tokenizer

MASK = 4


def places(sizes: list[int], first: int = 0, draw: int = 0) -> Place:
    total = sum(sizes)
    return Place(np.repeat(np.arange(len(sizes)), sizes), np.full(total, draw), np.arange(total) + first)


def chosen(sizes: list[int], rate: float = 0.3, mean: float = 3.0, seed: int = 0, first: int = 0, draw: int = 0):
    return choose_spans(np.array(sizes), places(sizes, first, draw), rate=rate, mean_span=mean, seed=seed)


def infilled_by_loop(row: list[int], starts: list[bool], spans: list[tuple[int, int]]) -> list[int]:
    """A row [CLS] text [SEP] with its spans (first word, words), word by word."""
    words: list[list[int]] = []
    for token, begins in zip(row[1:-1], starts, strict=True):
        if begins:
            words.append([])
        words[-1].append(token)
    result, hidden = [row[0]], set()
    for start, length in spans:
        hidden |= set(range(start, start + length))
    for i in range(len(words) + 1):
        result += [MASK for start, _ in spans if start == i]
        if i < len(words) and i not in hidden:
            result += words[i]
    return [*result, row[-1]]


@pytest.mark.parametrize(("rate", "mean"), [(0.3, 3.0), (0.3, 0.5), (0.7, 8.0)])
def test_exact_number_of_words_and_no_overlap(rate: float, mean: float):
    sizes = list(range(1, 150))
    spans = chosen(sizes, rate, mean)
    for row, words in enumerate(sizes):
        mine = spans.row == row
        start, length = spans.start[mine], spans.length[mine]
        assert length.sum() == ceil(round(rate * words, 9))
        assert (start[1:] >= (start + length)[:-1]).all()
        assert start.min() >= 0
        assert (start + length).max() <= words
        assert len(length) <= length.sum()  # a mask for each word hidden at most: the row doesn't grow


def test_lengths_follow_the_poisson_distribution():
    """Spans cut by the budget are few in long rows; those of no words are kept."""
    spans = chosen([3000] * 20)
    shares = np.bincount(spans.length)[:8] / len(spans.length)
    expected = [exp(-3) * 3**k / factorial(k) for k in range(8)]
    np.testing.assert_allclose(shares, expected, atol=0.015)


def test_expected_spans_are_those_of_a_simulation():
    """What `check` asks for: lengths drawn and cut until the words are spent, those of no words aside."""
    random = np.random.default_rng(0)
    for mean_span, budget in ((3.0, 7), (1.0, 4), (6.0, 1)):
        counts = []
        for _ in range(4000):
            left, spans = budget, 0
            while left > 0:
                length = min(int(random.poisson(mean_span)), left)
                left, spans = left - length, spans + (length > 0)
            counts.append(spans)
        assert abs(np.mean(counts) - expected_spans(budget, mean_span)[budget]) < 5 * np.std(counts) / 4000**0.5 + 1e-9


def test_every_word_is_as_likely_to_be_hidden():
    rows, words = 4000, 10
    spans = chosen([words] * rows)
    hidden = np.zeros(words)
    for start, length in zip(spans.start, spans.length, strict=True):
        hidden[start : start + length] += 1
    assert hidden.sum() == 3 * rows
    # Whole spans at random places cover the ends of a row less often, as with fairseq's.
    assert (np.abs(hidden[3:7] / rows - 0.33) < 0.06).all()
    assert (hidden > 0.15 * rows).all()


def test_spans_belong_to_the_text_not_to_the_batch():
    sizes, first = [40, 17, 90, 5], 0
    whole = chosen(sizes)
    for row, size in enumerate(sizes):
        alone = chosen([size], first=first)
        assert (whole.start[whole.row == row] == alone.start).all()
        assert (whole.length[whole.row == row] == alone.length).all()
        first += size
    for other in (chosen(sizes, seed=1), chosen(sizes, draw=1)):
        assert len(other.start) != len(whole.start) or (other.start != whole.start).any()


def rows_of_words(words: int = 30, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    flat, row, content, starts = [], [], [], []
    for i in range(rows):
        pieces = rng.integers(1, 4, rng.integers(1, words)).tolist()
        text = rng.integers(10, 900, sum(pieces)).tolist()
        flat += [2, *text, 3]
        row += [i] * (len(text) + 2)
        content += [False, *[True] * len(text), False]
        starts += [j == 0 for size in pieces for j in range(size)]
    return np.array(flat), np.array(row), np.array(content), np.array(starts)


def check_against_loop(infilling: Callable[..., Any], mean: float = 3.0) -> None:
    flat, row, content, starts = rows_of_words()
    words = np.bincount(row[content][starts])
    spans = chosen(words.tolist(), mean=mean)
    assert (spans.length == 0).any()
    assert (spans.start == words[spans.row]).any()  # a mask after the last word
    ids, rows = infilling(flat, row, content, starts, spans, MASK)
    for i in range(len(words)):
        wanted = infilled_by_loop(
            flat[row == i].tolist(),
            starts[row[content] == i].tolist(),
            list(zip(spans.start[spans.row == i].tolist(), spans.length[spans.row == i].tolist(), strict=True)),
        )
        assert ids[rows == i].tolist() == wanted


@pytest.mark.parametrize("mean", [3.0, 0.7])
def test_infilling_equals_a_loop(mean: float):
    check_against_loop(infill, mean)


def test_planted_faults_differ_from_the_loop():
    def torn(ids, row, content, starts, spans, mask_id):
        return infill(ids, row, content, np.roll(starts, 1), spans, mask_id)

    def shifted(ids, row, content, starts, spans, mask_id):
        return infill(ids, row, content, starts, spans._replace(start=np.maximum(spans.start - 1, 0)), mask_id)

    def mask_for_each_token(ids, row, content, starts, spans, mask_id):
        kept, rows = infill(ids, row, content, starts, spans, mask_id)
        return np.repeat(kept, 1 + (kept == mask_id)), np.repeat(rows, 1 + (kept == mask_id))

    for fault in (torn, shifted, mask_for_each_token):
        with pytest.raises(AssertionError):
            check_against_loop(fault)


def test_sentences_are_permuted_whole():
    """Letters are sentences: each stays together and ends with its full stops; the last may have none."""
    text = "aa. bbb.. c. dddd! ee"
    tokens = [character for character in text if character != " "]
    begin = AfterFullStops(np.array([False, True]))(np.array([c in ".!" for c in tokens], int), np.arange(len(tokens)))
    seen: Counter[str] = Counter()
    for draw in range(600):
        place = Place(np.zeros(len(tokens), int), np.full(len(tokens), draw), np.arange(len(tokens)))
        order, begins = sentence_order(begin, place, 0)
        assert sorted(order.tolist()) == list(range(len(tokens)))
        sentences = "".join(" " * bool(b) + tokens[i] for i, b in zip(order.tolist(), begins, strict=True)).split()
        assert sorted(sentences) == sorted(text.split())
        seen[" ".join(sentences)] += 1
    assert len(seen) > 115  # of 120 orders


def test_sentences_stay_in_their_row():
    begin = np.array([False, True] * 30)
    place = places([20, 30, 10])
    order, _ = sentence_order(begin, place, 0)
    assert (place.row[order] == place.row).all()
    alone, _ = sentence_order(begin[20:50], Place(np.zeros(30, int), place.draw[20:50], place.offset[20:50]), 0)
    assert (alone + 20 == order[20:50]).all()


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_full_stops_of_tokenizers(algorithm):
    text = "The cat sat. A dog ran! 我们在北京。今天天气很好!你去哪里?"
    tokenizer = train_tokenizer([text] * 50, algorithm, 320, 64)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    ends = full_stops(tokenizer)[ids]
    assert ends.sum() == 5
    pieces = np.split(np.array(ids), np.flatnonzero(ends)[:-1] + 1)
    assert all(tokenizer.decode(piece.tolist()).strip()[-1] in ".!。!?" for piece in pieces)
    assert not full_stops(tokenizer)[tokenizer.all_special_ids].any()
