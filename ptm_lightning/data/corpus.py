"""From sources to token stores: the tokenizer and the tokens, made once and kept in the cache."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.corpus_text import CorpusSettings, source_key, text_bytes, texts_of
from ptm_lightning.data.corpus_tokenizer import prepare_tokenizer
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.sentences import Splitter, find_splitter
from ptm_lightning.data.sources import Source, resolve
from ptm_lightning.data.store import TokenStore, build_store, build_stores, store_key
from ptm_lightning.data.tokenizer import plain, to_text
from ptm_lightning.data.tokenizer_training import TRAINED_ON
from ptm_lightning.errors import UserError
from ptm_lightning.progress import reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Open token stores, and the tokenizer that made them."""

    tokenizer: PreTrainedTokenizerFast
    new_tokens: NewTokens
    """What the tokenizer was extended by."""
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
    keys = {flag: [source_key(source, settings.cache) for source in found] for flag, found in sources.items()}
    tokenizer, new_tokens = prepare_tokenizer(settings, given)
    stores = _Stores(settings, sources, keys, plain(tokenizer), to_text(tokenizer)[0], splitter)
    folder = stores.training_folder()
    train = TokenStore.open(folder / "train")
    validation = stores.other("--data.validation", train) or TokenStore.open(folder / "validation")
    return Corpus(
        tokenizer,
        new_tokens,
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
        share = self.settings.validation_share
        folder = self._folder(self.keys["--data.train"], held_out=share)
        if not folder.exists():
            with reading("tokenizing", text_bytes(self.sources["--data.train"])) as advance:
                build_stores(
                    texts_of(self.sources["--data.train"], "--data.train", self.settings),
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
            with reading("tokenizing", text_bytes(self.sources[flag])) as advance:
                build_store(
                    texts_of(self.sources[flag], flag, self.settings),
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
