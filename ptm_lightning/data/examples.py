"""From files of labelled rows to stores of examples: splits, checks and tokens, made once and kept in the cache."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.corpus_text import HUB_SPLITS, CorpusSettings, source_key, text_bytes
from ptm_lightning.data.example_store import Encode, ExampleStore, write_examples
from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.held_out import Hashes, held_out
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.noise import Bools
from ptm_lightning.data.sources import Source, is_blank, read, resolve
from ptm_lightning.data.store import store_key, written_once
from ptm_lightning.data.text_batches import number
from ptm_lightning.data.tokenizer import plain, to_text
from ptm_lightning.errors import UserError
from ptm_lightning.progress import reading

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
HASHES = "hashes.npy"
"""Of the texts of a store's rows, sorted; also of those without tokens."""


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

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Knows again what `facts` say of the training rows that it took in once, to check others against them."""

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

    The shares of validation and test are held out of the training rows: in each stratum those with the smallest
    hashes, so that copies of a row fall on the same side. A source of a split's own stands for what is held out for it,
    and has a store of its own: other rows to evaluate leave the training split as it is. Without a source for training,
    the rows to evaluate stand for its rows.

    Args:
        settings: All that the tokens depend on.
        sources: What its sources are.
        test_share: Share of the training rows to hold out for the test.
        reader: The task's.
        tokenizer: From `prepare_tokenizer`,
        new_tokens: as these.

    Returns:
        The corpus, its stores each an `ExampleStore`.

    Raises:
        UserError: For sources that can't be read and rows that don't fit.
    """
    cache = _Cache(settings, sources, reader, plain(tokenizer), to_text(tokenizer)[0])
    first = _first(sources)
    training = cache.training(first, (settings.validation_share, test_share))
    stores = {split: ExampleStore.open(training / split) for split in SPLITS if (training / split).exists()}
    facts = _facts(training)
    blank = {first: facts.pop("blank")}
    reader.recall(facts)
    for split in SPLITS[1:]:
        if sources[flag := f"--data.{split}"]:
            folder = cache.evaluation(flag, split, training)
            stores[split] = ExampleStore.open(folder / split)
            blank[flag] = _facts(folder)["blank"]
    numbers = {
        split: {name: int(store.info[name]) for name in ("documents", "tokens", "bytes", "unknown", "empty")}
        for split, store in stores.items()
    }
    chosen = {"sources": list(settings.train), "validation_sources": list(settings.validation)}
    counted = {"duplicates": _duplicates(stores), "blank": {flag: count for flag, count in blank.items() if count}}
    return Corpus(
        tokenizer,
        new_tokens,
        stores["train"],
        stores.get("validation", stores["train"]),
        stores.get("test"),
        (0, *facts.pop("source_ends")),
        chosen | numbers | counted | facts,
    )


@dataclass(frozen=True)
class _Cache:
    """Makes the stores that aren't there yet: a folder for the rows behind a flag and what is held out of them."""

    settings: CorpusSettings
    sources: Sources
    reader: Reader
    tokenizer: Tokenizer
    tokenizer_json: str

    def training(self, flag: str, shares: tuple[float, float]) -> Path:
        """The training split and what is held out; as training has made them, if they give the known labels."""

        def of(known: Sequence[str]) -> Path:
            return self._folder(flag, shares=shares, reader=self.reader.key, known=known)

        folder, known = of(()), list(self.reader.known)
        if known and not (folder.exists() and list(_facts(folder).get("labels", ())) == known):
            folder = of(known)
        if not folder.exists():
            logger.info("tokens are kept in %s (delete it to free the space)", self.settings.cache)
        return self._made(folder, flag, lambda builder: builder.build_training(shares))

    def evaluation(self, flag: str, split: str, training: Path) -> Path:
        """Rows to evaluate, checked against a training split."""
        return self._made(self._folder(flag, training=training.name), flag, lambda builder: builder.build(split))

    def _folder(self, flag: str, **more: Any) -> Path:
        """Named after all that the stores depend on."""
        keys = [source_key(source, self.settings.cache) for source in self.sources[flag]]
        recipe = {"flag": flag, "columns": self.settings.columns, "fields": self.reader.fields} | more
        return self.settings.cache / "examples" / store_key(keys, self.tokenizer_json, recipe)

    def _made(self, folder: Path, flag: str, build: Callable[["_Builder"], None]) -> Path:
        sources = self.sources[flag]
        if not folder.exists():
            with written_once(folder) as partial, reading("tokenizing", text_bytes(sources)) as advance:
                if partial is not None:
                    build(_Builder(self.settings, flag, sources, self.reader, self.tokenizer, partial, advance))
        return folder


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return found


@dataclass
class _Builder:
    """Builds the stores of the rows behind a flag in one folder."""

    settings: CorpusSettings
    flag: str
    sources: Sequence[Source]
    reader: Reader
    tokenizer: Tokenizer
    folder: Path
    advance: Callable[[int], None]
    blank: int = 0
    """How many rows hold no text."""

    def build_training(self, shares: tuple[float, float]) -> None:
        """Reads the rows twice: to learn what there is and who is held out, and to tokenize."""
        strata, groups, stored = list[int](), list[int](), np.zeros(0, dtype=np.int64)
        hashes, source_ends = self._scan(self._take_into(strata, groups))
        split = held_out(np.array(groups, dtype=np.uint64), np.array(strata, dtype=np.uint64), shares)
        for number_, name in enumerate(SPLITS):
            if number_ == 0 or shares[number_ - 1]:
                written = self._write(name, hashes[split == number_], split == number_)
                stored = stored if number_ else np.flatnonzero(split == 0)[written]
        ends = np.searchsorted(stored, source_ends).tolist()
        self._write_facts({"source_ends": ends} | self.reader.facts(ExampleStore.open(self.folder / "train")))

    def build(self, split: str) -> None:
        """Reads the rows twice: to check them, and to tokenize."""
        hashes, _ = self._scan(self.reader.check)
        self._write(split, hashes, None)
        self._write_facts({})

    def _take_into(self, strata: list[int], groups: list[int]) -> Callable[[Row, str], None]:
        def take(row: Row, where: str) -> None:
            self.reader.take(row, where)
            strata.append(self.reader.stratum(row))
            groups.append(_hash(row, self.reader.together))

        return take

    def _scan(self, check: Callable[[Row, str], None]) -> tuple[Hashes, list[int]]:
        """Hashes of the rows' texts, and the number of rows at the end of each source."""
        hashes: list[int] = []
        ends: list[int] = []
        for source in self.sources:
            for row in self._read(source, check, keep_blank=True):
                if is_blank(row, self.reader.fields):
                    self.blank += 1
                else:
                    hashes.append(_hash(row, self.reader.fields))
            ends.append(len(hashes))
        if not hashes:
            raise UserError(f"{self.flag}: no row with text")
        return np.array(hashes, dtype=np.uint64), ends

    def _read(
        self, source: Source, check: Callable[[Row, str], None] | None = None, *, keep_blank: bool = False
    ) -> Iterator[Row]:
        return read(
            source,
            self.flag,
            columns=dict(self.settings.columns),
            required=self.reader.fields,
            check=check,
            hub_split=HUB_SPLITS[self.flag],
            keep_blank=keep_blank,
        )

    def _write(self, split: str, hashes: Hashes, chosen: Bools | None) -> Bools:
        flag = f"--data.{split}"
        if not len(hashes):
            raise UserError(f"{flag}: too few rows to hold a share out; give a source, or more rows")
        rows = chain.from_iterable(map(self._read, self.sources))
        mine = rows if chosen is None else compress(rows, chosen)
        encode = self.reader.encoder(self.tokenizer)
        stored = write_examples(self._counted(mine), encode, self.tokenizer, self.folder / split)
        if not stored.any():
            raise UserError(f"{flag}: no row that can be used, of its source or of those held out for it; give others")
        np.save(self.folder / split / HASHES, np.sort(hashes))
        return stored

    def _write_facts(self, facts: dict[str, Any]) -> None:
        text = json.dumps({"blank": self.blank} | facts, indent=1)
        (self.folder / "facts.json").write_text(text, encoding="utf-8")

    def _counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.advance(sum(len(as_text(row[name])) for name in self.reader.fields))
            yield row


def _duplicates(stores: Mapping[str, ExampleStore]) -> dict[str, int]:
    """Rows of each split whose texts occur before: in training itself, or in another split before it."""
    hashes = {split: np.load(store.folder / HASHES, mmap_mode="r") for split, store in stores.items()}
    pairs = ((later, before) for later in SPLITS for before in SPLITS[: SPLITS.index(later)])
    return {"within train": int((np.diff(hashes["train"]) == 0).sum())} | {
        f"{later} in {before}": _in_both(hashes[later], hashes[before])
        for later, before in pairs
        if {later, before} <= hashes.keys()
    }


def _in_both(hashes: Hashes, others: Hashes) -> int:
    """How many hashes are among others, which are sorted."""
    return int((np.take(others, np.searchsorted(others, hashes), mode="clip") == hashes).sum())


def _first(sources: Sources) -> str:
    """The flag whose rows are trained on, or stand for such."""
    return next(flag for flag, found in sources.items() if found)


def _hash(row: Row, columns: Sequence[str]) -> int:
    return number("\0".join(as_text(row[name]) for name in columns).encode("utf-8", "replace"))
