"""What a corpus is read from: the user's settings, the texts of their sources, and keys of their contents."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from ptm_lightning.data.cache import cache_folder
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.held_out import held_out_share
from ptm_lightning.data.sources import Source, content_key, fingerprint, read
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.files import shared_write

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
    """Held out of the training sources."""
    cache: Path
    new_words: int | str | None = None
    """A number of words, or a file of them, that the model's tokenizer is extended by."""
    sentences: str | None = None
    """What finds the sentences whose beginnings the stores must say, if they must; see `find_splitter`."""
    fields: tuple[str, ...] = ("text",)
    """The columns of text."""

    @classmethod
    def of(cls, data: Any, new_words: int | str | None) -> "CorpusSettings":
        """Those of a data module."""
        return cls(
            train=tuple(data.train),
            validation=tuple(data.validation or ()),
            test=tuple(data.test or ()),
            tokenizer=data.tokenizer,
            algorithm=data.tokenizer_algorithm,
            vocab_size=data.vocab_size,
            max_length=data.max_length,
            special_tokens=data.special_tokens(),
            split_text="line",
            columns=tuple(sorted((data.columns or {}).items())),
            validation_share=held_out_share(data, "validation"),
            cache=cache_folder(data.cache_dir),
            new_words=new_words,
        )


def texts_of(sources: Sequence[Source], flag: str, settings: CorpusSettings) -> Iterator[str | None]:
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
            yield from (as_text(row[name]) for name in settings.fields)
        yield None


def source_key(source: Source, cache: Path) -> str:
    """A hash of the content; a manifest of sizes and times spares the reading when nothing has changed."""
    stats = json.dumps(fingerprint(source))
    manifest = cache / "manifests" / blake2b(stats.encode(), digest_size=16).hexdigest()
    if source.kind == "files" and manifest.exists():
        return manifest.read_text()
    key = content_key(source)
    if source.kind == "files":
        shared_write(manifest, key)
    return key


def text_bytes(sources: Sequence[Source]) -> int | None:
    """Bytes of text, if no file is compressed."""
    files = [file for source in sources for file in source.files]
    plain = all(file.suffix not in (".gz", ".parquet") for file in files) and all(s.kind == "files" for s in sources)
    return sum(file.stat().st_size for file in files) if plain else None
