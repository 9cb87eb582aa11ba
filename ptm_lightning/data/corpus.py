"""From sources to token stores: the tokenizer and the tokens, made once and kept in the cache."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.sources import Source, content_key, fingerprint, read, resolve
from ptm_lightning.data.store import TokenStore, build_store, build_stores, store_key
from ptm_lightning.data.tokenizer import Algorithm, load_tokenizer, raw, to_text, train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.files import atomic_write
from ptm_lightning.progress import reading

TRAIN = "train"
"""The name of the tokenizer that is trained on the spot."""
TOKENIZER_TEXT_BYTES = 200_000_000
"""A tokenizer is trained on the first so many bytes of text: more doesn't change it for the better."""

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
    sentence_starts: bool = False
    fields: tuple[str, ...] = ("text",)
    """The columns of text."""
    all_fields: bool = False
    """Rows of examples that lack the text of any field are left out, not only those that lack all."""


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
    sources = {flag: resolve(names, flag) for flag, names in flags.items()}
    keys = {flag: [source_key(source, settings.cache) for source in found] for flag, found in sources.items()}
    tokenizer = tokenizer_for(settings, given, sources["--data.train"], keys["--data.train"])
    coder, text = raw(tokenizer), to_text(tokenizer)[0]
    reading_settings: dict[str, Any] = {"split_text": settings.split_text, "columns": settings.columns}
    if starts := settings.sentence_starts:
        reading_settings["sentence_starts"] = True

    share = 0.0 if settings.validation else settings.validation_share
    folder = settings.cache / "tokens" / store_key(keys["--data.train"], text, reading_settings | {"held_out": share})
    if not folder.exists():
        with reading("tokenizing", text_bytes(sources["--data.train"])) as advance:
            texts = _texts(sources["--data.train"], "--data.train", settings)
            build_stores(texts, coder, folder, validation_share=share, sentence_starts=starts, on_progress=advance)
        logger.info("tokens are kept in %s (delete it to free the space)", settings.cache)
    train = TokenStore.open(folder / "train")

    def other(flag: str) -> TokenStore | None:
        if not sources[flag]:
            return None
        key = store_key([*keys[flag], folder.name], text, reading_settings)
        other_folder = settings.cache / "tokens" / key
        if not other_folder.exists():
            with reading("tokenizing", text_bytes(sources[flag])) as advance:
                texts = _texts(sources[flag], flag, settings)
                build_store(
                    texts,
                    coder,
                    other_folder,
                    sentences_of=train.folder,
                    sentence_starts=starts,
                    on_progress=advance,
                    flag=flag,
                )
        return TokenStore.open(other_folder)

    if not settings.validation and not share:
        raise UserError("--data.validation: give a source, or hold a share out with --data.validation_share 0.02")
    validation = other("--data.validation") or TokenStore.open(folder / "validation")
    return Corpus(
        tokenizer,
        train,
        validation,
        other("--data.test"),
        (0, *train.info["sources"]),
        _provenance(settings, train, validation),
    )


def _texts(sources: Sequence[Source], flag: str, settings: CorpusSettings) -> Iterator[str | None]:
    """All texts; None after each source."""
    for source in sources:
        rows = read(
            source,
            flag,
            split_text=settings.split_text,
            columns=dict(settings.columns),
            required=settings.fields,
            hub_split=HUB_SPLITS[flag],
        )
        for row in rows:
            yield from (row[name] for name in settings.fields)
        yield None


def tokenizer_for(
    settings: CorpusSettings, given: PreTrainedTokenizerFast | None, sources: Sequence[Source], keys: Sequence[str]
) -> PreTrainedTokenizerFast:
    """The tokenizer asked for, else the model's, else one trained on the text of the training sources.

    Args:
        settings: What the user chose.
        given: The model's, if it has one.
        sources: Of the training text.
        keys: Their content keys.
    """
    if settings.tokenizer not in (None, TRAIN):
        return load_tokenizer(str(settings.tokenizer))
    if given is not None:
        return given
    recipe = [keys, settings.algorithm, settings.vocab_size, settings.max_length, settings.split_text, settings.columns]
    recipe += [settings.special_tokens] if settings.special_tokens else []
    recipe += [settings.fields] if settings.fields != ("text",) else []
    folder = settings.cache / "tokenizers" / blake2b(json.dumps(recipe).encode(), digest_size=16).hexdigest()
    if not folder.exists():
        with reading("training the tokenizer", text_bytes(sources)) as advance:
            texts = _beginning(_texts(sources, "--data.train", settings), advance)
            trained = train_tokenizer(
                texts, settings.algorithm, settings.vocab_size, settings.max_length, settings.special_tokens
            )
        partial = folder.with_name(f"{folder.name}.partial")
        trained.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return load_tokenizer(str(folder))


def _beginning(texts: Iterator[str | None], advance: Any) -> Iterator[str]:
    seen = 0
    for text in texts:
        if text is None:
            continue
        yield text
        size = len(text.encode("utf-8", "replace"))
        advance(size)
        if (seen := seen + size) > TOKENIZER_TEXT_BYTES:
            return


def source_key(source: Source, cache: Path) -> str:
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


def text_bytes(sources: Sequence[Source]) -> int | None:
    """Bytes of text, if no file is compressed."""
    files = [file for source in sources for file in source.files]
    plain = all(file.suffix not in (".gz", ".parquet") for file in files) and all(s.kind == "files" for s in sources)
    return sum(file.stat().st_size for file in files) if plain else None


def _provenance(settings: CorpusSettings, train: TokenStore, validation: TokenStore) -> dict[str, Any]:
    return {
        "sources": list(settings.train),
        "validation_sources": list(settings.validation),
        "train": _numbers(train),
        "validation": _numbers(validation),
        "unigram_loss": unigram_loss(train, validation),
    }


def _numbers(store: TokenStore) -> dict[str, int]:
    return {name: int(store.info[name]) for name in ("documents", "tokens", "bytes", "unknown", "duplicates", "empty")}


def unigram_loss(train: TokenStore, validation: TokenStore) -> float:
    """The mean loss, in nats, of guessing each validation token by how frequent it is in training.

    One is added to each count, so that no token is impossible.
    """
    counts = train.counts + 1.0
    log_share = np.log(counts) - np.log(counts.sum())
    return float(-(validation.counts * log_share).sum() / validation.counts.sum())
