"""A corpus in batches of texts, with their tokens: these are made on all cores while the caller works."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from ptm_lightning.data.cached_tokenizer import CachedTokenizer

_BATCH_BYTES = 1_000_000


def number(text: bytes) -> int:
    """A 64-bit hash of a text (blake2b)."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


@dataclass
class TextBatch:
    """Some documents of a corpus."""

    texts: list[str] = field(default_factory=list)
    bytes: int = 0
    """In UTF-8."""
    hashes: list[int] = field(default_factory=list)
    empty: int = 0
    """Documents that were left out."""
    repaired: int = 0
    ends_source: bool = False


def _batches(texts: Iterable[str | None]) -> Iterator[TextBatch]:
    """Documents in groups of about a megabyte, large enough for all cores and small against memory."""
    batch = TextBatch()
    for text in texts:
        if text is None:
            batch.ends_source = True
            yield batch
            batch = TextBatch()
            continue
        if not text or text.isspace():
            batch.empty += 1
            continue
        try:
            data = text.encode()
        except UnicodeEncodeError:
            # JSON can carry half a surrogate pair, which is no character and which the tokenizer refuses.
            data = text.encode("utf-8", "replace")
            text = data.decode()
            batch.repaired += 1
        batch.texts.append(text)
        batch.bytes += len(data)
        batch.hashes.append(number(data))
        if batch.bytes >= _BATCH_BYTES:
            yield batch
            batch = TextBatch()
    yield batch


@dataclass(frozen=True)
class Coded:
    """Texts as tokens."""

    ids: npt.NDArray[np.uint32]
    """Of all texts in a row."""
    lengths: npt.NDArray[np.int64]
    """Of each text."""
    encodings: list[Encoding]
    """Of each text, if offsets were asked for."""


def coded_batches(
    texts: Iterable[str | None], tokenizer: Tokenizer, offsets: bool
) -> Iterator[tuple[TextBatch, Coded]]:
    """A corpus in batches, in order; the next ones are tokenized while the caller works.

    Args:
        texts: Documents; None ends a source.
        tokenizer: Without padding and truncation.
        offsets: Whether to give encodings, which takes longer.
    """
    encode = partial(_with_offsets, tokenizer) if offsets else partial(_by_word, CachedTokenizer(tokenizer))
    waiting: deque[tuple[TextBatch, Future[Coded]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for batch in _batches(texts):
            waiting.append((batch, pool.submit(encode, batch.texts)))
            if len(waiting) > 2:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _by_word(tokenizer: CachedTokenizer, texts: list[str]) -> Coded:
    return Coded(*tokenizer.encode(texts), [])


def _with_offsets(tokenizer: Tokenizer, texts: list[str]) -> Coded:
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.uint32, int(lengths.sum()))
    return Coded(ids, lengths, encodings)
