"""Tokens once, in files mapped into memory: built in one pass, atomically, shared by the processes of a machine.

A store is a folder: tokens.bin, offsets.bin, counts.bin, info.json; a training store also has sentences.bin (sorted
hashes of its sentences), a store compared with a training store has fresh.bin. One for objectives on sentences has
starts.bin.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ptm_lightning.data.sentences import Splitter
from ptm_lightning.data.store_writer import FORMAT, Progress, write_store
from ptm_lightning.data.text_batches import number
from ptm_lightning.errors import UserError
from ptm_lightning.files import disk_is_full

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenStore:
    """The documents of a corpus as token ids. Pickles as its folder's path, so that workers map the same pages."""

    folder: Path
    tokens: npt.NDArray[Any]
    """All ids in a row, without special tokens, uint16 or uint32, shape (tokens,)."""
    offsets: npt.NDArray[np.int64]
    """Document i is tokens[offsets[i]:offsets[i + 1]], shape (documents + 1,)."""
    counts: npt.NDArray[np.int64]
    """How often each id occurs, shape (vocabulary,)."""
    fresh: npt.NDArray[np.bool_] | None
    """True where a token lies in a sentence that the training store doesn't contain, shape (tokens,)."""
    sentence_starts: npt.NDArray[np.int64] | None
    """Where sentences begin, ascending; a document always begins one. Shape (sentences,)."""
    info: dict[str, Any]
    """documents, tokens, characters, bytes (UTF-8), unknown, empty, repaired, duplicates."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps a finished store; reads nothing but info.json."""
        folder = Path(folder)
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))

        def mapped(name: str, dtype: str) -> npt.NDArray[Any]:
            return np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")

        return cls(
            folder=folder,
            tokens=mapped("tokens", info["dtype"]),
            offsets=mapped("offsets", "int64"),
            counts=mapped("counts", "int64"),
            fresh=mapped("fresh", "bool") if (folder / "fresh.bin").exists() else None,
            sentence_starts=mapped("starts", "int64") if (folder / "starts.bin").exists() else None,
            info=info,
        )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return type(self).open, (self.folder,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text (UTF-8) over tokens."""
        return float(self.info["bytes"] / self.info["tokens"])

    def lengths(self, indices: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Tokens of these documents, same shape as `indices`."""
        return np.asarray(self.offsets[indices + 1] - self.offsets[indices])


def store_key(sources: Iterable[str], tokenizer_json: str, settings: dict[str, Any]) -> str:
    """A name for a store that is equal when, and only when, it would hold the same.

    Args:
        sources: Content keys of the sources, in their order.
        tokenizer_json: The tokenizer as text.
        settings: Plain values that change what is stored, such as the held-out share.

    Returns:
        32 hexadecimal digits.
    """
    value = json.dumps([FORMAT, list(sources), tokenizer_json, settings], sort_keys=True)
    return blake2b(value.encode(), digest_size=16).hexdigest()


def build_stores(
    texts: Iterable[str | None],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    validation_share: float,
    splitter: Splitter | None = None,
    on_progress: Progress = lambda _: None,
    flag: str = "--data.train",
) -> None:
    """Writes folder/train and, if a share is held out, folder/validation. Returns at once if they are there.

    A document is held out when the hash of its text says so: copies of a document fall on the same side.

    Args:
        texts: Documents, never all in memory. None ends a source.
        tokenizer: Without padding and truncation, see `ptm_lightning.data.tokenizer.raw`.
        folder: Appears complete or not at all. Other processes wait for the one that builds.
        validation_share: Share of documents to hold out, 0 <= share < 1.
        splitter: Finds sentences, of which the store then says where they begin; that takes longer.
        on_progress: Takes the bytes of text (UTF-8) tokenized since the last call.
        flag: What the user gave the texts with, for messages.

    Raises:
        UserError: No document has text, none is held out, or the disk is full.
    """
    with written_once(folder) as partial:
        if partial is None:
            return
        with open(partial / "held_out.jsonl", "w+", encoding="ascii") as spool:
            kept = _kept(texts, validation_share, spool)
            left = " but those held out; give more, or --data.validation" if validation_share else ""
            none = f"{flag}: no document with text{left}"
            write_store(kept, tokenizer, partial / "train", None, splitter, on_progress, none)
            if validation_share:
                spool.seek(0)
                held_out = (json.loads(line) for line in spool)
                compare = partial / "train" / "sentences.bin"
                none = (
                    f"--data.validation: a share of {validation_share:g} of {flag} is no document; give a source, "
                    "or divide the text into documents (--data.split_text blank_line or line)"
                )
                write_store(held_out, tokenizer, partial / "validation", compare, splitter, on_progress, none)
        os.remove(partial / "held_out.jsonl")


def build_store(
    texts: Iterable[str | None],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    sentences_of: Path | None = None,
    splitter: Splitter | None = None,
    on_progress: Progress = lambda _: None,
    flag: str = "--data.validation",
) -> None:
    """Writes a single store, for a source of its own. Returns at once if it is there.

    Args:
        texts: Documents; read once. None ends a source.
        tokenizer: Without padding and truncation.
        folder: Appears complete or not at all.
        sentences_of: A training store's folder: tokens of sentences that it doesn't contain are marked as fresh.
        splitter: Finds sentences, of which the store then says where they begin.
        on_progress: Takes the bytes of text (UTF-8) tokenized since the last call.
        flag: What the user gave the texts with, for messages.

    Raises:
        UserError: No document has text, or the disk is full.
    """
    with written_once(folder) as partial:
        if partial is not None:
            compare = sentences_of / "sentences.bin" if sentences_of else None
            none = f"{flag}: no document with text"
            write_store(texts, tokenizer, partial, compare, splitter, on_progress, none)


@contextmanager
def written_once(folder: Path) -> Iterator[Path | None]:
    """Gives a folder to write into that becomes `folder` at the end, or None if that is there already."""
    if folder.is_dir():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that writes %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield None
            return
        # Nobody else holds the lock: what lies there was left by a process that died.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            _sync(partial)
            os.replace(partial, folder)
            _sync_folder(folder.parent)
        except OSError as error:
            if not disk_is_full(error):
                raise
            raise UserError(
                f"no space left on disk while writing {folder}; make room, or choose another --data.cache_dir"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Waits until a folder and all in it lie on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _kept(texts: Iterable[str | None], validation_share: float, spool: IO[str]) -> Iterator[str | None]:
    """Passes on what is trained on, and writes down what is held out."""
    border = int(validation_share * 2**64)
    for text in texts:
        if text and border and number(text.encode("utf-8", "replace")) < border and text.strip():
            spool.write(json.dumps(text) + "\n")
        else:
            yield text
