"""Rows of two segments, against a loop written from BERT's create_pretraining_data and a check of every row."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from ptm_lightning.data import pairs
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.noise import Purpose
from ptm_lightning.data.pairs import LayOutPairs, Segments, Sentences, cut_examples, follows, heads, truncate
from ptm_lightning.data.sentences import find_splitter
from ptm_lightning.data.store import TokenStore, build_store
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError

ENGLISH = [text for topic in list(topics.values())[:60] for text in topic.split("\n\n") if text.strip()]
BOILERPLATE = [f"{text.split('.')[0]}. This is said of everything. And so is this." for text in ENGLISH[:60]]
# ruff: noqa: RUF001 - full-width punctuation is meant
CHINESE = [
    f"第{i}天下雨了。我们在家里看书，喝茶！你去哪儿了？他说：“我在路上{i}次。”然后他回来了🙂。é 也是。" * (1 + i % 3)
    for i in range(80)
]
CORPORA = {"english": ENGLISH, "boilerplate": ENGLISH + BOILERPLATE, "chinese": CHINESE}
FRAME = Frame((2,), (3,))
LENGTH = 48


@pytest.fixture(scope="module", params=["english-wordpiece", "boilerplate-wordpiece", "chinese-bpe", "english-unigram"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    corpus, algorithm = request.param.split("-")
    tokenizer = raw(train_tokenizer(CORPORA[corpus], algorithm, 700, 64))
    folder = tmp_path_factory.mktemp("store") / "store"
    build_store(CORPORA[corpus], tokenizer, folder, splitter=find_splitter("rules"))
    return TokenStore.open(folder)


def maker(store: TokenStore, **changes: Any) -> LayOutPairs:
    settings = {"max_length": LENGTH, "short_share": 0.1, "swapped": False, "seed": 0}
    return LayOutPairs(store, FRAME, **(settings | changes))


def laid_out(store: TokenStore, draw: int = 0, **changes: Any) -> Pieces:
    documents = np.arange(len(store))
    return maker(store, **changes)(store.offsets[:-1], store.lengths(documents), np.full(len(store), draw))


def check(store: TokenStore, pieces: Pieces, negative: list[bool], swapped: bool) -> None:
    """Every row, by itself: whole sentences of one document, truncated only when full, and a true label."""
    starts, tokens = set(store.sentence_starts.tolist()) | {int(store.offsets[-1])}, store.tokens.tolist()
    borders = store.offsets.tolist()
    document = [number for number, size in enumerate(np.diff(borders)) for _ in range(size)]
    room = LENGTH - 3
    found = list(zip(pieces.start.tolist(), (pieces.start + pieces.length).tolist(), strict=True))
    assert len(found) == 2 * len(negative)
    assert pieces.opens.tolist() == [True, False] * len(negative)
    assert pieces.closes.all()
    for (a, a_end), (b, b_end), unlike in zip(found[::2], found[1::2], negative, strict=True):
        assert a_end > a, "an empty segment"
        assert b_end > b, "an empty segment"
        assert document[a] == document[a_end - 1], "a segment of two documents"
        assert document[b] == document[b_end - 1], "a segment of two documents"
        total = a_end - a + b_end - b
        assert total <= room, "too long"
        whole = total < room  # a full row may be cut
        assert {a, b, a_end, b_end} <= starts or not whole, "a sentence is torn"
        if swapped:
            first, second = ((b, b_end), (a, a_end)) if unlike else ((a, a_end), (b, b_end))
            assert document[a] == document[b], "of two documents"
            assert first[1] <= second[0], "the wrong order"
            assert not whole or first[1] == second[0], "text between the segments"
        elif unlike:
            assert document[a] != document[b], "a negative of the same document"
            if whole:
                rest = tokens[a_end : borders[document[a] + 1]]
                assert not rest or rest[: b_end - b] != tokens[b:b_end], "the true text, labelled as random"
        else:
            assert document[a] == document[b], "a positive of another document"
            assert a_end <= b, "the wrong order"
            assert not whole or a_end == b, "text between the segments"
    assert abs(np.mean(negative) - 0.5) < 2 / len(negative) ** 0.5, "labels out of balance"


def labels(store: TokenStore, pieces: Pieces) -> list[bool]:
    return list(~follows(pieces, store.offsets))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("draw", [0, 3])
def test_every_row_is_right(store: TokenStore, swapped: bool, draw: int) -> None:
    pieces = laid_out(store, draw, swapped=swapped)
    check(store, pieces, labels(store, pieces), swapped)


def torn(pieces: Pieces) -> Pieces:
    return pieces._replace(start=pieces.start + 1, length=np.maximum(pieces.length - 1, 1))


def same_document(pieces: Pieces) -> Pieces:
    """The second segment is the first one itself."""
    return pieces._replace(start=np.repeat(pieces.start[::2], 2), length=np.repeat(pieces.length[::2], 2))


def reversed_order(pieces: Pieces) -> Pieces:
    turned = [column.reshape(-1, 2)[:, ::-1].ravel() for column in (pieces.start, pieces.length)]
    return pieces._replace(start=turned[0], length=turned[1])


def shifted_row(pieces: Pieces) -> Pieces:
    """The second segment of the next row."""
    starts, lengths = pieces.start.copy(), pieces.length.copy()
    starts[1::2], lengths[1::2] = np.roll(starts[1::2], 1), np.roll(lengths[1::2], 1)
    return pieces._replace(start=starts, length=lengths)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("fault", [torn, same_document, reversed_order, shifted_row])
def test_a_fault_in_the_rows_is_seen(store: TokenStore, swapped: bool, fault: Callable[[Pieces], Pieces]) -> None:
    pieces = laid_out(store, swapped=swapped)
    right = labels(store, pieces)
    with pytest.raises(AssertionError):
        check(store, fault(pieces), right, swapped)


@pytest.mark.parametrize("swapped", [False, True])
def test_wrong_labels_are_seen(store: TokenStore, swapped: bool) -> None:
    pieces = laid_out(store, swapped=swapped)
    with pytest.raises(AssertionError):
        check(store, pieces, [not label for label in labels(store, pieces)], swapped)


def test_the_true_text_as_a_random_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Number {i} is first. {'The same is next.' if i % 2 else 'It is not.'}" for i in range(60)]
    build_store(
        texts, raw(train_tokenizer(texts, "wordpiece", 200, 64)), tmp_path / "s", splitter=find_splitter("rules")
    )
    store = TokenStore.open(tmp_path / "s")
    pieces = laid_out(store)
    check(store, pieces, labels(store, pieces), swapped=False)
    monkeypatch.setattr(pairs, "_equal", lambda tokens, one, two, length: np.zeros(len(one), dtype=np.bool_))
    wrong = laid_out(store)
    with pytest.raises(AssertionError, match="labelled as random"):
        check(store, wrong, labels(store, wrong), swapped=False)


def from_the_paper(document: list[list[int]], target: int, split: list[float], random_next: list[bool]) -> list[Any]:
    """BERT's create_instances_from_document, sentence by sentence; rows as (first segment, its true rest)."""
    rows, chunk, i = [], [], 0
    while i < len(document):
        chunk.append(document[i])
        full = sum(map(len, chunk)) >= target and len(chunk) > 1  # BERT takes one sentence, and a random next to it
        if i == len(document) - 1 or full:
            if len(chunk) > 1:
                at = i - len(chunk) + 1
                a_end = 1 + int(split[at] * (len(chunk) - 1))
                rows.append(([*chain(*chunk[:a_end])], [*chain(*chunk[a_end:])]))
                if random_next[at]:
                    i -= len(chunk) - a_end
            chunk = []
        i += 1
    return rows


def test_examples_are_those_of_the_paper() -> None:
    random = np.random.default_rng(0)
    lengths = [random.integers(1, 12, random.integers(1, 30)) for _ in range(200)]
    first = np.append(0, np.cumsum([len(sizes) for sizes in lengths]))
    end = np.cumsum(np.concatenate(lengths))
    begin = end - np.concatenate(lengths)
    split, back = random.random(len(end)), random.random(len(end)) < 0.5
    target = random.integers(2, 30, len(lengths))
    found = cut_examples(Sentences(begin, end, first), target, split, back)
    ours = [
        (list(range(begin[at], begin[middle])), list(range(begin[middle], end[stop - 1])))
        for at, middle, stop in zip(*found, strict=True)
    ]
    expected = []
    for number, wanted in enumerate(target.tolist()):
        here = slice(first[number], first[number + 1])
        document = [list(range(a, b)) for a, b in zip(begin[here], end[here], strict=True)]
        expected += from_the_paper(document, wanted, split[here].tolist(), back[here].tolist())
    assert ours == expected
    assert len(ours) > 500


@pytest.mark.parametrize("room", [2, 7, 8])
def test_truncation_takes_from_the_longer_one(room: int) -> None:
    sizes = np.array([(a, b) for a in range(1, 20) for b in range(1, 20)])
    places = np.arange(len(sizes))
    start = np.stack([places * 100, places * 100 + 50], axis=1)
    cut = truncate(Segments(start, sizes), room, np.zeros_like(places), places, 0)
    for before, after in zip(sizes.tolist(), cut.length.tolist(), strict=True):
        while sum(before) > room:
            before[0 if before[0] > before[1] else 1] -= 1
        assert before == after
    assert (cut.start >= start).all()
    assert (cut.start + cut.length <= start + sizes).all()


@pytest.mark.parametrize("coins", [1, 10, 64, 100, 1000])
def test_half_of_the_coins_show_heads(coins: int) -> None:
    rows = np.arange(4000)
    found = heads(np.full(4000, coins), np.zeros_like(rows), rows, Purpose.CUT_FIRST, 0)
    assert abs(found.mean() - coins / 2) < 4 * (coins / 4 / 4000) ** 0.5
    assert abs(found.var() / (coins / 4) - 1) < 0.1


def test_rows_differ_by_draw_and_seed_and_not_by_chunk(store: TokenStore) -> None:
    pieces = laid_out(store)
    for other in (laid_out(store, draw=1), laid_out(store, seed=1)):
        assert other.start.tolist() != pieces.start.tolist()
    some = np.arange(len(store))[::-1][5:40]
    alone = maker(store)(store.offsets[some], store.lengths(some), np.zeros(len(some), np.int64))
    rows = {tuple(zip(p.start.tolist(), p.length.tolist(), strict=True)) for p in _by_row(alone)}
    assert rows <= {tuple(zip(p.start.tolist(), p.length.tolist(), strict=True)) for p in _by_row(pieces)}


def _by_row(pieces: Pieces) -> list[Pieces]:
    return [Pieces(*(column[2 * row : 2 * row + 2] for column in pieces)) for row in range(len(pieces.row) // 2)]


def test_short_rows_are_a_tenth(store: TokenStore) -> None:
    none, all_ = (laid_out(store, short_share=share).row_lengths(FRAME) for share in (0.0, 1.0))
    assert all_.mean() < none.mean()
    assert none.max() == LENGTH


def test_negatives_come_from_the_whole_corpus(store: TokenStore) -> None:
    few = np.arange(3, 40)
    places = [
        maker(store)(store.offsets[few], store.lengths(few), np.full(len(few), draw)).start[1::2] for draw in range(30)
    ]
    document = np.searchsorted(store.offsets, np.concatenate(places), side="right") - 1
    others = document[document >= 40]
    assert np.histogram(others, bins=4, range=(40, len(store)))[0].min() > len(others) / 8


def test_documents_without_a_pair_are_refused(store: TokenStore) -> None:
    single = replace(store, sentence_starts=store.offsets[:-1])
    with pytest.raises(UserError, match=r"no pair of segments can be made of \d+ documents"):
        laid_out(single)


def test_segments_of_the_same_text_have_no_order(tmp_path: Path) -> None:
    texts = ["The same again. " * 2, "The same again. And another. " * 2, *ENGLISH[:20]]
    build_store(
        texts, raw(train_tokenizer(texts, "wordpiece", 300, 64)), tmp_path / "s", splitter=find_splitter("rules")
    )
    store = TokenStore.open(tmp_path / "s")
    for draw in range(10):
        pieces = laid_out(store, draw, swapped=True)
        ends = pieces.start + pieces.length
        segments = [store.tokens[a:b].tolist() for a, b in zip(pieces.start, ends, strict=True)]
        assert all(first != second for first, second in zip(segments[::2], segments[1::2], strict=True))


def test_no_documents_give_no_rows(store: TokenStore) -> None:
    none = np.zeros(0, dtype=np.int64)
    assert not len(maker(store)(none, none, none).row)
