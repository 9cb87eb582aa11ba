"""From files of labelled rows to stores of examples: splits, checks and tokens, made once and kept in the cache."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.corpus_text import HUB_SPLITS, CorpusSettings, source_key, text_bytes
from ptm_lightning.data.example_store import Encode, ExampleStore, write_examples
from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.noise import Bools, Ints
from ptm_lightning.data.sources import Source, is_blank, read, resolve
from ptm_lightning.data.store import store_key, written_once
from ptm_lightning.data.text_batches import number
from ptm_lightning.data.tokenizer import plain, to_text
from ptm_lightning.errors import UserError
from ptm_lightning.progress import reading

logger = logging.getLogger(__name__)
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
SPLITS = ("train", "validation", "test")


class Reader(Protocol):
    """What a task makes of rows; one for each time that a store is built."""

    fields: tuple[str, ...]
    """The columns of text."""
    together: tuple[str, ...]
    """Columns: rows that agree in them are held out together, such as all questions on one text."""
    key: Any
    """Plain values: what of its settings changes what is stored."""
    known: Sequence[str]
    """The labels that the model has been trained for, if it has been."""

    def take(self, row: Row, where: str) -> None:
        """Takes in a training row, or refuses it by `UserError` with the place."""

    def check(self, row: Row, where: str) -> None:
        """Refuses an evaluation row that doesn't fit the training rows."""

    def stratum(self, row: Row) -> int:
        """Rows with the same number are held out in the same share."""

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """What tokenizes rows, when all rows of the split were seen; a row without any token is left out."""

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """What the task and the model card must know, such as how often labels occur in the training split."""


Sources = Mapping[str, Sequence[Source]]
"""By the flag that they stand behind."""


def find_sources(settings: CorpusSettings) -> Sources:
    """What the names of the sources mean: a wrong one is refused before any work."""
    flags = {"--data.train": settings.train, "--data.validation": settings.validation, "--data.test": settings.test}
    return {flag: resolve(names, flag) for flag, names in flags.items()}


def prepare_examples(
    settings: CorpusSettings,
    sources: Sources,
    test_share: float,
    reader: Reader,
    tokenizer: PreTrainedTokenizerFast,
    new_tokens: NewTokens,
) -> Corpus:
    """Opens the stores of examples; makes first what the cache doesn't have.

    Without a source for validation or test, a share of the training rows is held out: in each stratum those with
    the smallest hashes, so that copies of a row fall on the same side. Without one for training, the rows to evaluate
    stand for its rows.

    Args:
        settings: All that the tokens depend on.
        sources: What its sources are.
        test_share: Share of the rows to hold out for the test, if there is no source for it.
        reader: The task's.
        tokenizer: From `prepare_tokenizer`,
        new_tokens: as these.

    Returns:
        The corpus, its stores each an `ExampleStore`.

    Raises:
        UserError: For sources that can't be read and rows that don't fit.
    """
    shares = (0.0 if settings.validation else settings.validation_share, 0.0 if settings.test else test_share)
    folder = _folder(settings, sources, shares, reader, to_text(tokenizer)[0])
    if not folder.exists():
        with written_once(folder) as partial, reading("tokenizing", text_bytes(sources[_first(sources)])) as advance:
            if partial is not None:
                _Builder(settings, sources, reader, shares, plain(tokenizer), partial, advance).build()
        logger.info("tokens are kept in %s (delete it to free the space)", settings.cache)
    facts = _facts(folder)
    stores = {split: ExampleStore.open(folder / split) for split in SPLITS if (folder / split).exists()}
    numbers = {
        split: {name: int(store.info[name]) for name in ("documents", "tokens", "bytes", "unknown", "empty")}
        for split, store in stores.items()
    }
    chosen = {"sources": list(settings.train), "validation_sources": list(settings.validation)}
    return Corpus(
        tokenizer,
        new_tokens,
        stores["train"],
        stores.get("validation", stores["train"]),
        stores.get("test"),
        (0, *facts.pop("source_ends")),
        chosen | numbers | facts,
    )


def _folder(
    settings: CorpusSettings, sources: Sources, shares: tuple[float, float], reader: Reader, tokenizer_json: str
) -> Path:
    """Where the stores lie: those that training has made of these rows, if they give the labels that are known."""
    keys = {flag: [source_key(source, settings.cache) for source in found] for flag, found in sources.items()}
    recipe = {"columns": settings.columns, "fields": reader.fields, "shares": shares, "reader": reader.key}
    recipe |= {flag: len(found) for flag, found in keys.items()}

    def of(known: Sequence[str]) -> Path:
        all_keys = (key for found in keys.values() for key in found)
        return settings.cache / "examples" / store_key(all_keys, tokenizer_json, recipe | {"known": known})

    trained = of(())
    if reader.known and not (trained.exists() and list(_facts(trained).get("labels", ())) == list(reader.known)):
        return of(reader.known)
    return trained


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return found


@dataclass
class _Builder:
    """Builds the stores of all splits in one folder."""

    settings: CorpusSettings
    sources: Sources
    reader: Reader
    shares: tuple[float, float]
    tokenizer: Tokenizer
    folder: Path
    advance: Callable[[int], None]
    hashes: dict[str, Hashes] = field(default_factory=dict)
    """Of the rows of each split."""
    blank: dict[str, int] = field(default_factory=dict)
    """By the flag of their source, how many rows hold no text."""

    def build(self) -> None:
        """Reads the training rows twice: to learn what there is and who is held out, and to tokenize."""
        strata, groups, stored = list[int](), list[int](), np.zeros(0, dtype=np.int64)
        first = _first(self.sources)
        hashes, source_ends = self._scan(first, self._take_into(strata, groups))
        split = held_out(np.array(groups, dtype=np.uint64), np.array(strata, dtype=np.uint64), self.shares)
        for number_, name in enumerate(SPLITS):
            flag = f"--data.{name}"
            if number_ == 0 or self.shares[number_ - 1]:
                self.hashes[name] = hashes[split == number_]
                written = self._write(name, self._rows(first), split == number_)
                stored = stored if number_ else np.flatnonzero(split == 0)[written]
            elif self.sources[flag]:
                self.hashes[name], _ = self._scan(flag, self.reader.check)
                self._write(name, self._rows(flag), None)
        ends = np.searchsorted(stored, source_ends).tolist()
        facts = {"source_ends": ends, "duplicates": self._duplicates(), "blank": self.blank}
        facts |= self.reader.facts(ExampleStore.open(self.folder / "train"))
        (self.folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    def _take_into(self, strata: list[int], groups: list[int]) -> Callable[[Row, str], None]:
        def take(row: Row, where: str) -> None:
            self.reader.take(row, where)
            strata.append(self.reader.stratum(row))
            groups.append(_hash(row, self.reader.together))

        return take

    def _scan(self, flag: str, check: Callable[[Row, str], None]) -> tuple[Hashes, list[int]]:
        """Hashes of the rows' texts, and the number of rows at the end of each source."""
        hashes: list[int] = []
        ends: list[int] = []
        for source in self.sources[flag]:
            for row in self._read(source, flag, check, keep_blank=True):
                if is_blank(row, self.reader.fields):
                    self.blank[flag] = self.blank.get(flag, 0) + 1
                else:
                    hashes.append(_hash(row, self.reader.fields))
            ends.append(len(hashes))
        if not hashes:
            raise UserError(f"{flag}: no row with text")
        return np.array(hashes, dtype=np.uint64), ends

    def _rows(self, flag: str) -> Iterator[Row]:
        for source in self.sources[flag]:
            yield from self._read(source, flag, None)

    def _read(
        self, source: Source, flag: str, check: Callable[[Row, str], None] | None, *, keep_blank: bool = False
    ) -> Iterator[Row]:
        return read(
            source,
            flag,
            columns=dict(self.settings.columns),
            required=self.reader.fields,
            check=check,
            hub_split=HUB_SPLITS[flag],
            keep_blank=keep_blank,
        )

    def _write(self, split: str, rows: Iterator[Row], chosen: Bools | None) -> Bools:
        flag = f"--data.{split}"
        if not len(self.hashes[split]):
            raise UserError(f"{flag}: too few rows to hold a share out; give a source, or more rows")
        mine = rows if chosen is None else compress(rows, chosen)
        encode = self.reader.encoder(self.tokenizer)
        stored = write_examples(self._counted(mine), encode, self.tokenizer, self.folder / split)
        if not stored.any():
            raise UserError(f"{flag}: no row that can be used, of its source or of those held out for it; give others")
        return stored

    def _counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.advance(sum(len(as_text(row[name])) for name in self.reader.fields))
            yield row

    def _duplicates(self) -> dict[str, int]:
        """Rows of each split whose texts occur before: in training itself, or in another split before it."""
        train = self.hashes["train"]
        inside = {"within train": len(train) - len(np.unique(train))}
        pairs = ((later, before) for later in SPLITS for before in SPLITS[: SPLITS.index(later)])
        return inside | {
            f"{later} in {before}": int(np.isin(self.hashes[later], self.hashes[before]).sum())
            for later, before in pairs
            if {later, before} <= self.hashes.keys()
        }


def _first(sources: Sources) -> str:
    """The flag whose rows are trained on, or stand for such."""
    return next(flag for flag, found in sources.items() if found)


def _hash(row: Row, columns: Sequence[str]) -> int:
    return number("\0".join(as_text(row[name]) for name in columns).encode("utf-8", "replace"))


def held_out(hashes: Hashes, strata: Hashes, shares: tuple[float, float]) -> Ints:
    """Which split each row belongs to.

    Args:
        hashes: (n,) of the rows' texts.
        strata: (n,) rows with equal numbers are held out in the same share.
        shares: Of validation and test.

    Returns:
        (n,) 0 training, 1 validation, 2 test. Equal rows of a stratum are together, and each keeps some for training.
        What one is too small to give the next ones make good; if none does, the rows with the smallest hash are taken.
    """
    split = np.zeros(len(hashes), dtype=np.int64)
    seen, held = 0, np.zeros(3, dtype=np.int64)
    order = np.lexsort((hashes, strata))
    begins = np.flatnonzero(np.diff(strata[order], prepend=strata[order][:1] + np.uint64(1)))
    for group in np.split(order, begins[1:]):
        seen += len(group)
        first = min(len(group) - 1, max(0, round(shares[0] * seen) - int(held[1])))
        second = min(len(group) - 1, max(first, round(sum(shares) * seen) - int(held[1:].sum())))
        split[_through_equals(hashes, group, first, second)] = 2
        split[_through_equals(hashes, group, 0, first)] = 1
        held += np.bincount(split[group], minlength=3)
    for number_, share in enumerate(shares, 1):
        rest = np.flatnonzero(split == 0)
        if share and len(rest) and not (split == number_).any():
            _, which, rows = np.unique(strata[rest], return_inverse=True, return_counts=True)
            rest = rest[(rows[which] > 1) | (rows.max() == 1)]
            smallest = rest[hashes[rest] == hashes[rest].min()]
            split[smallest if len(smallest) < len(rest) else rest[:0]] = number_
    return split


def _through_equals(hashes: Hashes, group: Ints, begin: int, end: int) -> Ints:
    """group[begin:end], but rows that equal each other all stand where the first of them does; none if that is all."""
    values = hashes[group]
    while 0 < begin < len(group) and values[begin] == values[begin - 1]:
        begin += 1
    while 0 < end < len(group) and values[end] == values[end - 1]:
        end += 1
    return group[begin:end] if begin < end < len(group) else group[:0]
