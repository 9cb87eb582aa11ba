import errno
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from ptm_lightning.data import text_batches
from ptm_lightning.data.hashset import HashSet, contains
from ptm_lightning.data.sentences import find_splitter, spans
from ptm_lightning.data.store import TokenStore, build_store, build_stores, store_key
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError

TEXTS = [text for topic in list(topics.values())[:40] for text in topic.split("\n\n") if text.strip()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return raw(train_tokenizer(TEXTS, "wordpiece", 800, 64))


def documents(store: TokenStore) -> list[list[int]]:
    return [store.tokens[a:b].tolist() for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]


def naive(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_a_store_holds_the_tokens_of_each_document(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_batches, "_BATCH_BYTES", 2000)  # many batches
    texts = [*TEXTS, "", " \n", TEXTS[3], "half \ud800 pair", "我们 \u2603", "\x01"]
    steps: list[int] = []
    build_stores(iter(texts), tokenizer, tmp_path / "s", validation_share=0.0, on_progress=steps.append)
    store = TokenStore.open(tmp_path / "s" / "train")
    kept = [*TEXTS, TEXTS[3], "half ? pair", "我们 \u2603"]
    expected = naive(tokenizer, kept)
    assert documents(store) == expected
    assert len(store) == len(kept)
    assert store.lengths(np.array([[2, 0]])).tolist() == [[len(expected[2]), len(expected[0])]]
    flat = [i for ids in expected for i in ids]
    np.testing.assert_array_equal(store.counts, np.bincount(flat, minlength=800))
    assert store.tokens.dtype == np.uint16
    assert store.fresh is None
    assert store.info["tokens"] == len(flat)
    assert store.info["unknown"] == flat.count(1) > 0
    assert (store.info["empty"], store.info["repaired"]) == (3, 1)
    assert store.info["duplicates"] == len(kept) - len(set(kept))
    assert store.info["bytes"] == sum(len(text.encode()) for text in [*kept, "\x01"]) == sum(steps)
    assert sorted(path.name for path in (tmp_path / "s").rglob("*.*")) == sorted(
        ["tokens.bin", "offsets.bin", "counts.bin", "sentences.bin", "info.json"]
    )


def test_held_out_documents_are_chosen_by_their_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    twice = [*TEXTS, *reversed(TEXTS)]
    build_stores(twice, tokenizer, tmp_path / "s", validation_share=0.2)
    train, validation = (TokenStore.open(tmp_path / "s" / name) for name in ("train", "validation"))
    assert len(train) + len(validation) == len(twice)
    assert 0.1 < len(validation) / len(twice) < 0.3
    held_out = {text for text in twice if text_batches.number(text.encode()) < 0.2 * 2**64}
    assert documents(validation) == naive(tokenizer, [text for text in twice if text in held_out])
    assert documents(train) == naive(tokenizer, [text for text in twice if text not in held_out])


def test_fresh_tokens_lie_in_sentences_that_training_lacks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    build_stores(["The first one. A second one."], tokenizer, tmp_path / "s", validation_share=0.0)
    texts = ["  A  SECOND one. Something new! The first one.", "The first one.", "All of it\nis new. 我们"]
    build_store(texts, tokenizer, tmp_path / "v", sentences_of=tmp_path / "s" / "train")
    store = TokenStore.open(tmp_path / "v")
    assert store.fresh is not None
    known = {"a second one.", "the first one."}
    expected = []
    for text in texts:
        old = {i for a, b in spans(text) if " ".join(text[a:b].lower().split()) in known for i in range(a, b)}
        expected += [a not in old for a, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    assert store.fresh.tolist() == expected
    assert {True, False} == set(expected)


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_sentence_starts_are_those_of_the_text(algorithm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_batches, "_BATCH_BYTES", 2000)  # many batches
    texts = [*TEXTS, "\x01", "One. Two\nThree! 天下雨了。我们在家。"]
    tokenizer = raw(train_tokenizer(texts, algorithm, 700, 64))
    build_stores(texts, tokenizer, tmp_path / "s", validation_share=0.2, splitter=find_splitter("rules"))
    build_store(texts, tokenizer, tmp_path / "t", splitter=find_splitter("rules"))
    store = TokenStore.open(tmp_path / "t")
    expected, place = [], 0
    for text in texts:
        sentences, before = [range(a, b) for a, b in spans(text)], None
        for a, b in tokenizer.encode(text, add_special_tokens=False).offsets:
            sentence = next((i for i, span in enumerate(sentences) if max(a, b - 1) in span), before or 0)
            if sentence != before:
                expected.append(place)
            before, place = sentence, place + 1
    assert store.sentence_starts is not None
    assert store.sentence_starts.tolist() == expected
    assert set(store.offsets[:-1]) <= set(expected)
    for name in ("train", "validation"):
        part = TokenStore.open(tmp_path / "s" / name)
        assert part.sentence_starts is not None
        assert set(part.offsets[:-1].tolist()) <= set(part.sentence_starts.tolist())


def test_fresh_tokens_with_spaces_in_front(tmp_path: Path) -> None:
    tokenizer = raw(train_tokenizer(TEXTS, "bpe", 600, 64))
    build_stores(["One line. Other"], tokenizer, tmp_path / "s", validation_share=0.0)
    build_store(["One line. Fresh one"], tokenizer, tmp_path / "v", sentences_of=tmp_path / "s" / "train")
    store = TokenStore.open(tmp_path / "v")
    assert store.fresh is not None
    old = store.tokens[~store.fresh].tolist()
    assert tokenizer.decode(old) == "One line."


def test_pickles_as_its_folder_and_opens_at_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    build_store(TEXTS, tokenizer, tmp_path / "s")
    start = time.perf_counter()
    store = TokenStore.open(tmp_path / "s")
    assert time.perf_counter() - start < 0.5
    data = pickle.dumps(store)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).tokens, store.tokens)
    with pytest.raises(ValueError, match="read-only"):
        store.tokens[0] = 1


def test_built_once_and_others_wait(tokenizer: Tokenizer, tmp_path: Path) -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        read.append(1)
        time.sleep(0.1)
        yield from TEXTS

    threads = [threading.Thread(target=build_store, args=(texts(), tokenizer, tmp_path / "s")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 1
    assert len(TokenStore.open(tmp_path / "s")) == len(TEXTS)


def in_a_child_that_dies(work: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(3)  # it should have been killed before
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("moment", ["reading", "os.fsync", "os.replace"])
def test_a_kill_leaves_nothing_that_is_taken_for_a_store(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # no threads in the child

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def texts() -> Iterator[str]:
        yield from TEXTS
        if moment == "reading":
            die()

    with monkeypatch.context() as patch:
        if moment != "reading":
            patch.setattr(moment, die)
        in_a_child_that_dies(lambda: build_stores(texts(), tokenizer, tmp_path / "s", validation_share=0.1))
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "s.partial").exists()
    build_stores(TEXTS, tokenizer, tmp_path / "s", validation_share=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.lock"]
    assert len(TokenStore.open(tmp_path / "s" / "validation"))


def test_a_failure_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="no space left on disk"):
        build_store(texts(), tokenizer, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s.lock"]


def test_no_text_and_nothing_held_out_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--data\.train: no document with text"):
        build_stores(["", " "], tokenizer, tmp_path / "s", validation_share=0.1)
    with pytest.raises(UserError, match=r"^--data\.validation: a share of 1e-12 of --data\.train is no document"):
        build_stores(["one"], tokenizer, tmp_path / "s", validation_share=1e-12)
    assert not (tmp_path / "s").exists()


def test_key_tells_apart_what_differs() -> None:
    base = store_key(["a", "b"], "{}", {"share": 0.1, "x": 1})
    assert base == store_key(["a", "b"], "{}", {"x": 1, "share": 0.1})
    others = [
        store_key(["b", "a"], "{}", {"share": 0.1, "x": 1}),
        store_key(["a", "b"], "{ }", {"share": 0.1, "x": 1}),
        store_key(["a", "b"], "{}", {"share": 0.2, "x": 1}),
        store_key(["ab"], "{}", {"share": 0.1, "x": 1}),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize("run", [7, 100, 10_000])
def test_hash_set_equals_numpy(tmp_path: Path, run: int) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, 1000, dtype=np.uint64)
    values = np.concatenate([values, values[:300], np.array([0, 2**64 - 1], dtype=np.uint64)])
    with HashSet(tmp_path / "set", run=run) as kept:
        for part in np.array_split(values, 50):
            kept.add(part)
        assert kept.finish() == 1002
    np.testing.assert_array_equal(np.fromfile(tmp_path / "set", dtype=np.uint64), np.unique(values))
    assert contains(tmp_path / "set", values).all()
    assert not contains(tmp_path / "set", random.integers(1, 2**64 - 1, 100, dtype=np.uint64)).any()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
