"""Writes one token store in one pass: all cores tokenize, and the bookkeeping runs beside it."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ptm_lightning.data.hashset import HashSet, contains
from ptm_lightning.data.sentences import RULES, Splitter, find_splitter, hashes
from ptm_lightning.data.text_batches import Coded, TextBatch, coded_batches
from ptm_lightning.errors import UserError

Progress = Callable[[int], None]
Take = Callable[[TextBatch, Coded], None]
Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.unsignedinteger[Any]]

FORMAT = 6
"""To be raised when the files, how text becomes tokens, the rules for sentences or held-out rows, or their hashes
change: stores are then built anew."""


@contextmanager
def _training_sentences(folder: Path) -> Iterator[Take]:
    """Collects the sentences of a store that others are compared with."""
    with HashSet(folder / "sentences.bin") as known:

        def take(batch: TextBatch, _: Coded) -> None:
            known.add(_hashes(batch))

        yield take
        known.finish()


@contextmanager
def _fresh_tokens(folder: Path, compare: Path) -> Iterator[Take]:
    """Writes which tokens lie in sentences that the set `compare` doesn't hold."""
    with open(folder / "fresh.bin", "wb") as file:

        def take(batch: TextBatch, coded: Coded) -> None:
            fresh = ~contains(compare, _hashes(batch))
            file.write(np.repeat(fresh, coded.sentences[RULES]).data)

        yield take


def _hashes(batch: TextBatch) -> npt.NDArray[np.uint64]:
    """Of all sentences, by the rules."""
    found = map(hashes, batch.texts, batch.spans(find_splitter(RULES)))
    return np.concatenate([np.zeros(0, np.uint64), *found])


@contextmanager
def _sentence_starts(folder: Path, splitter: Splitter) -> Iterator[Take]:
    """Writes where sentences begin that have a token."""
    before = 0
    with open(folder / "starts.bin", "wb") as file:

        def take(_: TextBatch, coded: Coded) -> None:
            nonlocal before
            sizes = coded.sentences[splitter.key]
            file.write((before + (np.cumsum(sizes) - sizes)[sizes > 0]).data)
            before += len(coded.ids)

        yield take


@contextmanager
def _tokens(folder: Path, dtype: np.dtype[Any]) -> Iterator[Callable[[Coded], Bools]]:
    """Writes ids, and where documents begin; gives which texts have any."""
    written = 0
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "offsets.bin", "wb") as offsets:
        offsets.write(np.zeros(1, dtype=np.int64).data)

        def write(coded: Coded) -> Bools:
            nonlocal written
            tokens.write(coded.ids.astype(dtype).data)
            filled = coded.lengths > 0  # a text of control characters alone gives no token
            offsets.write((written + np.cumsum(coded.lengths[filled])).data)
            written += len(coded.ids)
            return filled

        yield write


def _takers(folder: Path, compare: Path | None, splitter: Splitter | None) -> Iterator[AbstractContextManager[Take]]:
    """What else is written of the texts, beside their tokens."""
    yield _training_sentences(folder) if compare is None else _fresh_tokens(folder, compare)
    if splitter is not None:
        yield _sentence_starts(folder, splitter)


def _counting(compare: Path | None, splitter: Splitter | None) -> list[Splitter]:
    """What finds the sentences whose tokens must be known."""
    by_rules = find_splitter(RULES) if compare is not None else None
    return list({each.key: each for each in (by_rules, splitter) if each is not None}.values())


class _Counts:
    """What info.json and counts.bin will say, summed up batch by batch."""

    def __init__(self, vocabulary: int) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.by_id = np.zeros(vocabulary, dtype=np.int64)
        self.totals = dict.fromkeys(("documents", "tokens", "characters", "bytes", "empty", "repaired"), 0)
        self.ends: list[int] = []

    def add(self, batch: TextBatch, ids: Ids, documents: int) -> None:
        self.by_id += np.bincount(ids, minlength=len(self.by_id))
        self.totals["documents"] += documents
        self.totals["tokens"] += len(ids)
        self.totals["characters"] += sum(map(len, batch.texts))
        self.totals["bytes"] += batch.bytes
        self.totals["empty"] += batch.empty + len(batch.texts) - documents
        self.totals["repaired"] += batch.repaired
        if batch.ends_source:
            self.ends.append(self.totals["documents"])

    def write(self, folder: Path, unknown: int | None, distinct: int) -> None:
        (folder / "counts.bin").write_bytes(self.by_id.data)
        documents = self.totals["documents"]
        info = self.totals | {
            "unknown": 0 if unknown is None else int(self.by_id[unknown]),
            "duplicates": documents - distinct,
            "dtype": self.dtype.name,
            "sources": self.ends or [documents],
        }
        (folder / "info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")


def write_store(
    texts: Iterable[str | None],
    tokenizer: Tokenizer,
    folder: Path,
    compare: Path | None,
    splitter: Splitter | None,
    on_progress: Progress,
    none: str,
) -> None:
    """Writes a store's files, in one pass over the texts.

    Args:
        texts: Documents; None ends a source, and the store knows how many documents came before.
        tokenizer: Without padding and truncation.
        folder: Is made if it isn't there.
        compare: The sentences.bin of a training store; None for a store that others are compared with.
        splitter: Finds the sentences whose beginnings are stored; None to store none.
        on_progress: Takes the bytes of text (UTF-8) tokenized since the last call.
        none: What a UserError says when no document has any text.
    """
    folder.mkdir(exist_ok=True)
    counts = _Counts(max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1)
    with ExitStack() as files:
        takers = [files.enter_context(each) for each in _takers(folder, compare, splitter)]
        write = files.enter_context(_tokens(folder, counts.dtype))
        documents = files.enter_context(HashSet(folder / "documents.bin"))
        for batch, coded in coded_batches(texts, tokenizer, _counting(compare, splitter)):
            filled = write(coded)
            documents.add(np.array(batch.hashes, dtype=np.uint64)[filled])
            for take in takers:
                take(batch, coded)
            counts.add(batch, coded.ids, int(filled.sum()))
            on_progress(batch.bytes)
        if not counts.totals["documents"]:
            raise UserError(none)
        distinct = documents.finish()
    (folder / "documents.bin").unlink()
    counts.write(folder, unknown_id(tokenizer), distinct)


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for what the vocabulary lacks, if the model has one."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        unknown: int | None = model["unk_id"]
        return unknown
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None
