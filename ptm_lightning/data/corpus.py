"""From sources to token stores: the tokenizer and the tokens, made once and kept in the cache."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.sentences import Splitter, find_splitter
from ptm_lightning.data.sources import Source, content_key, fingerprint, read, resolve
from ptm_lightning.data.store import TokenStore, build_store, build_stores, store_key, written_once
from ptm_lightning.data.text_sample import sample_text, with_few_words
from ptm_lightning.data.tokenizer import load_tokenizer, raw, to_text
from ptm_lightning.data.tokenizer_training import TRAINED_ON, UNIGRAM, Algorithm, train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.files import atomic_write
from ptm_lightning.log import say
from ptm_lightning.progress import reading

TRAIN = "train"
"""The name of the tokenizer that is trained on the spot."""
SAMPLE_BYTES = 100_000_000
"""A tokenizer is trained on so many bytes of text at most: more doesn't change it for the better."""
UNIGRAM_CHARACTERS = 2_000_000
"""A unigram tokenizer on text whose different words have so many characters: that takes 100 seconds of one core, half
of it 33, and then a text becomes 2 % more tokens."""
LONG_BYTES = 1_000_000
"""Training on more text than this is said, for it takes seconds."""

logger = logging.getLogger(__name__)
HUB_SPLITS = {"--data.train": "train", "--data.validation": "validation", "--data.test": "test"}


@dataclass(frozen=True)
class CorpusSettings:
    """All that the tokens depend on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    tokenizer: str | None
    algorithm: Algorithm
    vocab_size: int
    max_length: int
    special_tokens: tuple[str, ...]
    """What a tokenizer trained on the spot gets besides its own."""
    split_text: Literal["blank_line", "line"]
    columns: tuple[tuple[str, str], ...]
    validation_share: float
    cache: Path
    sentences: str | None = None
    """What finds the sentences whose beginnings the stores must say, if they must; see `find_splitter`."""


@dataclass(frozen=True)
class Corpus:
    """Open token stores, and the tokenizer that made them."""

    tokenizer: PreTrainedTokenizerFast
    train: TokenStore
    validation: TokenStore
    test: TokenStore | None
    sources: tuple[int, ...]
    """(sources + 1,) the first document of each training source."""
    provenance: dict[str, Any]
    """Sources, documents, tokens, and the loss of a unigram model, for the summary and the model card."""


def prepare_corpus(settings: CorpusSettings, given: PreTrainedTokenizerFast | None) -> Corpus:
    """Opens the stores; makes first what the cache doesn't have.

    Args:
        settings: All that the tokens depend on.
        given: The tokenizer of the model that is trained on, if it has one. It is taken unless another is asked for.

    Returns:
        The corpus.

    Raises:
        UserError: For sources that can't be read, and for a tokenizer that can't be loaded or trained.
    """
    flags = {"--data.train": settings.train, "--data.validation": settings.validation, "--data.test": settings.test}
    if not settings.validation and not settings.validation_share:
        raise UserError("--data.validation: give a source, or hold a share out with --data.validation_share 0.02")
    splitter = find_splitter(settings.sentences) if settings.sentences else None
    sources = {flag: resolve(names, flag) for flag, names in flags.items()}
    keys = {flag: [_content_key(source, settings.cache) for source in found] for flag, found in sources.items()}
    tokenizer = _tokenizer(settings, given, sources["--data.train"], keys["--data.train"])
    stores = _Stores(settings, sources, keys, raw(tokenizer), to_text(tokenizer)[0], splitter)
    folder = stores.training_folder()
    train = TokenStore.open(folder / "train")
    validation = stores.other("--data.validation", train) or TokenStore.open(folder / "validation")
    return Corpus(
        tokenizer,
        train,
        validation,
        stores.other("--data.test", train),
        (0, *train.info["sources"]),
        _provenance(settings, tokenizer, train, validation),
    )


@dataclass(frozen=True)
class _Stores:
    """Makes the token stores that the cache doesn't have."""

    settings: CorpusSettings
    sources: dict[str, list[Source]]
    """By flag."""
    keys: dict[str, list[str]]
    """Hashes of their contents."""
    tokenizer: Tokenizer
    tokenizer_json: str
    splitter: Splitter | None

    def training_folder(self) -> Path:
        """Holds the training store and, if a share is held out, that of validation."""
        share = 0.0 if self.settings.validation else self.settings.validation_share
        folder = self._folder(self.keys["--data.train"], held_out=share)
        if not folder.exists():
            with reading("tokenizing", _size(self.sources["--data.train"])) as advance:
                build_stores(
                    _texts(self.sources["--data.train"], "--data.train", self.settings),
                    self.tokenizer,
                    folder,
                    validation_share=share,
                    splitter=self.splitter,
                    on_progress=advance,
                )
            logger.info("tokens are kept in %s (delete it to free the space)", self.settings.cache)
        return folder

    def other(self, flag: str, train: TokenStore) -> TokenStore | None:
        """A store that knows which of its sentences training doesn't contain, if the flag has any source."""
        if not self.sources[flag]:
            return None
        folder = self._folder([*self.keys[flag], train.folder.parent.name])
        if not folder.exists():
            with reading("tokenizing", _size(self.sources[flag])) as advance:
                build_store(
                    _texts(self.sources[flag], flag, self.settings),
                    self.tokenizer,
                    folder,
                    sentences_of=train.folder,
                    splitter=self.splitter,
                    on_progress=advance,
                    flag=flag,
                )
        return TokenStore.open(folder)

    def _folder(self, keys: Sequence[str], **more: Any) -> Path:
        """Named after all that the tokens depend on."""
        more |= {"split_text": self.settings.split_text, "columns": self.settings.columns}
        if self.splitter is not None:
            more["sentence_starts"] = self.splitter.key
        return self.settings.cache / "tokens" / store_key(keys, self.tokenizer_json, more)


def _texts(sources: Sequence[Source], flag: str, settings: CorpusSettings) -> Iterator[str | None]:
    """All texts; None after each source."""
    for source in sources:
        rows = read(
            source, flag, split_text=settings.split_text, columns=dict(settings.columns), hub_split=HUB_SPLITS[flag]
        )
        for row in rows:
            yield row["text"]
        yield None


def _tokenizer(
    settings: CorpusSettings, given: PreTrainedTokenizerFast | None, sources: Sequence[Source], keys: Sequence[str]
) -> PreTrainedTokenizerFast:
    """The tokenizer that is named, or the model's own, or else one that is trained on the training text, once."""
    if settings.tokenizer not in (None, TRAIN):
        return load_tokenizer(str(settings.tokenizer))
    if given is not None:
        return given
    recipe = [keys, settings.algorithm, settings.vocab_size, settings.max_length, settings.split_text, settings.columns]
    recipe += [settings.special_tokens, SAMPLE_BYTES, UNIGRAM_CHARACTERS]
    folder = settings.cache / "tokenizers" / blake2b(json.dumps(recipe).encode(), digest_size=16).hexdigest()
    with written_once(folder) as partial:
        if partial is not None:
            _trained(settings, sources).save_pretrained(partial)
    return load_tokenizer(str(folder))


def _trained(settings: CorpusSettings, sources: Sequence[Source]) -> PreTrainedTokenizerFast:
    with reading("reading for the tokenizer", _size(sources)) as advance:
        texts = (text for text in _texts(sources, "--data.train", settings) if text is not None)
        sample = sample_text(texts, SAMPLE_BYTES, advance)
    if settings.algorithm in UNIGRAM:
        sample = with_few_words(sample, UNIGRAM_CHARACTERS)
    if not sample.whole:
        say(f"--data.tokenizer train: a {settings.algorithm} tokenizer is trained on {sample}")
    elif sample.bytes > LONG_BYTES:
        logger.info("training a %s tokenizer on %s; it may take a minute", settings.algorithm, sample)
    return train_tokenizer(
        sample.passages,
        settings.algorithm,
        settings.vocab_size,
        settings.max_length,
        settings.special_tokens,
        trained_on=str(sample),
    )


def _content_key(source: Source, cache: Path) -> str:
    """A hash of the content; a manifest of sizes and times spares the reading when nothing has changed."""
    stats = json.dumps(fingerprint(source))
    manifest = cache / "manifests" / blake2b(stats.encode(), digest_size=16).hexdigest()
    if source.kind == "files" and manifest.exists():
        return manifest.read_text()
    key = content_key(source)
    if source.kind == "files":
        manifest.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(manifest, key)
    return key


def _size(sources: Sequence[Source]) -> int | None:
    """Bytes of text, if no file is compressed."""
    files = [file for source in sources for file in source.files]
    plain = all(file.suffix not in (".gz", ".parquet") for file in files) and all(s.kind == "files" for s in sources)
    return sum(file.stat().st_size for file in files) if plain else None


def _provenance(
    settings: CorpusSettings, tokenizer: PreTrainedTokenizerFast, train: TokenStore, validation: TokenStore
) -> dict[str, Any]:
    trained_on = tokenizer.init_kwargs.get(TRAINED_ON)
    return {
        "sources": list(settings.train),
        "validation_sources": list(settings.validation),
        "train": _numbers(train),
        "validation": _numbers(validation),
        "unigram_loss": unigram_loss(train, validation),
    } | ({"tokenizer trained on": trained_on} if trained_on else {})


def _numbers(store: TokenStore) -> dict[str, int]:
    return {name: int(store.info[name]) for name in ("documents", "tokens", "bytes", "unknown", "duplicates", "empty")}


def unigram_loss(train: TokenStore, validation: TokenStore) -> float:
    """The mean loss, in nats, of guessing each validation token by how frequent it is in training.

    One is added to each count, so that no token is impossible.
    """
    counts = train.counts + 1.0
    log_share = np.log(counts) - np.log(counts.sum())
    return float(-(validation.counts * log_share).sum() / validation.counts.sum())
