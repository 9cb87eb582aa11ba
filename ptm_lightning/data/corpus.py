"""From sources to token stores: the tokenizer and the tokens, made once and kept in the cache."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.new_words import NewTokens, choose_words, extend_tokenizer, kind_of, read_words
from ptm_lightning.data.sources import Source, content_key, fingerprint, read, resolve
from ptm_lightning.data.store import TokenStore, build_store, build_stores, store_key
from ptm_lightning.data.tokenizer import Algorithm, load_tokenizer, raw, to_text, train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.files import atomic_write
from ptm_lightning.log import say
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
    new_words: int | str | None
    """A number of words, or a file of them, that the model's tokenizer is extended by."""
    max_length: int
    special_tokens: tuple[str, ...]
    """What a tokenizer trained on the spot gets besides its own."""
    split_text: Literal["blank_line", "line"]
    columns: tuple[tuple[str, str], ...]
    validation_share: float
    cache: Path
    sentence_starts: bool = False


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
    tokenizer, new_tokens = prepare_tokenizer(settings, given)
    flags = {"--data.train": settings.train, "--data.validation": settings.validation, "--data.test": settings.test}
    sources = {flag: resolve(names, flag) for flag, names in flags.items()}
    keys = {flag: [_content_key(source, settings.cache) for source in found] for flag, found in sources.items()}
    coder, text = raw(tokenizer), to_text(tokenizer)[0]
    reading_settings: dict[str, Any] = {"split_text": settings.split_text, "columns": settings.columns}
    if starts := settings.sentence_starts:
        reading_settings["sentence_starts"] = True

    share = 0.0 if settings.validation else settings.validation_share
    folder = settings.cache / "tokens" / store_key(keys["--data.train"], text, reading_settings | {"held_out": share})
    if not folder.exists():
        with reading("tokenizing", _size(sources["--data.train"])) as advance:
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
            with reading("tokenizing", _size(sources[flag])) as advance:
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
        new_tokens,
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
            source, flag, split_text=settings.split_text, columns=dict(settings.columns), hub_split=HUB_SPLITS[flag]
        )
        for row in rows:
            yield row["text"]
        yield None


def prepare_tokenizer(
    settings: CorpusSettings, given: PreTrainedTokenizerFast | None, parts: Sequence[CorpusSettings] = ()
) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """The tokenizer, loaded, trained or extended as the settings say, and the tokens that it was extended by.

    Args:
        settings: As for `prepare_corpus`.
        given: The tokenizer of the model that is trained on, if it has one.
        parts: Those of a mixture: a tokenizer is trained on the text of all of them.

    Raises:
        UserError: It can't be loaded, trained or extended.
    """
    if (new_words := settings.new_words) is not None:
        if given is None or settings.tokenizer is not None:
            raise UserError(
                f"--data.new_words {new_words}: extends the tokenizer of a pretrained model; start from one with "
                "--init_from, and leave --data.tokenizer out"
            )
        return _extended(settings, given, new_words)
    if settings.tokenizer not in (None, TRAIN):
        return load_tokenizer(str(settings.tokenizer)), {}
    return given or _trained(settings, parts or [settings]), {}


def _trained(settings: CorpusSettings, parts: Sequence[CorpusSettings]) -> PreTrainedTokenizerFast:
    distinct = list({(part.train, part.split_text, part.columns): part for part in parts}.values())
    sources = [resolve(part.train, "--data.train") for part in distinct]
    texts_of: list[Any] = [
        [[_content_key(source, settings.cache) for source in found], part.split_text, part.columns]
        for part, found in zip(distinct, sources, strict=True)
    ]
    recipe = [texts_of, settings.algorithm, settings.vocab_size, settings.max_length, settings.special_tokens]

    def make(folder: Path) -> None:
        with reading("training the tokenizer", _size([source for found in sources for source in found])) as advance:
            each = (_texts(found, "--data.train", part) for part, found in zip(distinct, sources, strict=True))
            texts = _beginning(chain.from_iterable(each), advance)
            trained = train_tokenizer(
                texts, settings.algorithm, settings.vocab_size, settings.max_length, settings.special_tokens
            )
        trained.save_pretrained(folder)

    return load_tokenizer(str(_kept(settings.cache, recipe, make)))


def _extended(
    settings: CorpusSettings, given: PreTrainedTokenizerFast, new_words: int | str
) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """The given tokenizer with more words; which ones the cache knows, once the text was counted."""
    kind_of(given.backend_tokenizer)  # refuses at once what can't be extended
    if isinstance(new_words, str):
        return extend_tokenizer(given, read_words(Path(new_words), given))
    if new_words < 1:
        raise UserError(f"--data.new_words {new_words}: give a number of words from 1 on, or a file of words")
    sources = resolve(settings.train, "--data.train")
    keys = [_content_key(source, settings.cache) for source in sources]

    def make(folder: Path) -> None:
        with reading("choosing new words", _size(sources)) as advance:
            texts = _beginning(_texts(sources, "--data.train", settings), advance)
            forms = choose_words(texts, given, new_words)
        folder.mkdir(parents=True)
        (folder / "words.json").write_text(json.dumps(forms))

    recipe = ["new words", keys, to_text(given)[0], new_words, settings.split_text, settings.columns]
    forms = json.loads((_kept(settings.cache, recipe, make) / "words.json").read_text())
    if len(forms) < new_words:
        say(f"--data.new_words {new_words}: only {len(forms)} words of the text are cut in pieces and occur twice")
    return extend_tokenizer(given, forms)


def _kept(cache: Path, recipe: list[Any], make: Callable[[Path], None]) -> Path:
    """A folder of the cache that depends on a recipe; made first if it isn't there."""
    folder = cache / "tokenizers" / blake2b(json.dumps(recipe).encode(), digest_size=16).hexdigest()
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        make(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return folder


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
