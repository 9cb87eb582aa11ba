from collections import Counter

import numpy as np

from ptm_lightning.data.text_sample import PASSAGE, Sample, sample_text, with_few_words

TEXTS = [f"document {i} says {i * i} words, ünder {i % 7} names" for i in range(2000)]
TOTAL = sum(len(text.encode()) for text in TEXTS)


def test_a_small_text_is_taken_whole() -> None:
    steps: list[int] = []
    sample = sample_text(iter(TEXTS), TOTAL, steps.append)
    assert sorted(sample.passages) == sorted(TEXTS)
    assert sample.whole
    assert (sample.bytes, sum(steps)) == (TOTAL, TOTAL)
    assert str(sample) == f"{TOTAL / 1000:.1f} kB of text"
    assert str(Sample([], 2_500_000, 30_000_000)) == "2.5 MB of 30.0 MB of text, spread evenly"


def test_a_sample_keeps_the_limit_and_is_spread_evenly() -> None:
    sample = sample_text(TEXTS, TOTAL // 4, lambda _: None)
    assert TOTAL // 10 < sample.bytes <= TOTAL // 4
    assert sample.bytes == sum(len(passage.encode()) for passage in sample.passages)
    assert not sample.whole
    tenth = Counter(TEXTS.index(passage) // 200 for passage in sample.passages)
    expected = len(sample.passages) / 10
    assert (np.abs(np.array([tenth[i] for i in range(10)]) - expected) < 5 * expected**0.5).all()
    beginning = Counter(TEXTS.index(passage) // 200 for passage in sample.passages[:100])
    assert min(beginning[i] for i in range(10)) > 0  # in random order


def test_a_sample_depends_on_the_text_alone() -> None:
    one = sample_text(TEXTS, TOTAL // 4, lambda _: None)
    assert sample_text(reversed(TEXTS), TOTAL // 4, lambda _: None) == one
    assert (
        sample_text([*TEXTS[:1000], "\n", *TEXTS[1000:]], TOTAL // 4, lambda _: None).passages[:50] == one.passages[:50]
    )


def test_a_long_document_is_taken_in_passages() -> None:
    book = " ".join(TEXTS * 3)
    sample = sample_text([book], len(book) // 2, lambda _: None)
    assert len(book) // 10 < sample.bytes <= len(book) // 2
    assert all(passage in book and len(passage) <= PASSAGE for passage in sample.passages)
    whole = sample_text([book], 10**9, lambda _: None)
    assert sorted(whole.passages) == sorted(book[i : i + PASSAGE] for i in range(0, len(book), PASSAGE))


def test_few_words_count_different_words_once() -> None:
    sample = sample_text(TEXTS, TOTAL, lambda _: None)
    for limit in (500, 3000):
        few = with_few_words(sample, limit)
        count = len(few.passages)
        sizes = [sum(map(len, set(" ".join(sample.passages[:n]).split()))) for n in (count, count + 1)]
        assert sizes[0] <= limit < sizes[1]
        assert few.passages == sample.passages[:count]
        assert few.bytes == sum(len(passage.encode()) for passage in few.passages)
    assert with_few_words(sample, 10**6) == sample
    assert with_few_words(sample, 1).passages == sample.passages[:1]
