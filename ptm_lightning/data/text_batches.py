"""A corpus in batches of texts, with their tokens: these are made on all cores while the caller works."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ptm_lightning.data.cached_tokenizer import CachedTokenizer
from ptm_lightning.data.sentence_tokens import Starts, encode_sentences
from ptm_lightning.data.sentences import Splitter

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
    _spans: dict[str, list[list[tuple[int, int]]]] = field(default_factory=dict, init=False)

    def spans(self, splitter: Splitter) -> list[list[tuple[int, int]]]:
        """(start, end) of the sentences of each text, found once."""
        if splitter.key not in self._spans:
            self._spans[splitter.key] = [splitter.spans(text) for text in self.texts]
        return self._spans[splitter.key]


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
    sentences: Mapping[str, npt.NDArray[np.int64]]
    """Tokens of each sentence of all texts, by the key of what found the sentences."""


def coded_batches(
    texts: Iterable[str | None], tokenizer: Tokenizer, splitters: Sequence[Splitter]
) -> Iterator[tuple[TextBatch, Coded]]:
    """A corpus in batches, in order; the next ones are tokenized while the caller works.

    Args:
        texts: Documents; None ends a source.
        tokenizer: Without padding and truncation.
        splitters: Find the sentences whose tokens are counted.
    """
    encode = partial(_coded, CachedTokenizer(tokenizer))
    waiting: deque[tuple[TextBatch, Future[Coded]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for batch in _batches(texts):
            starts = {each.key: [[start for start, _ in found] for found in batch.spans(each)] for each in splitters}
            waiting.append((batch, pool.submit(encode, batch.texts, starts)))
            if len(waiting) > 2:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _coded(tokenizer: CachedTokenizer, texts: list[str], starts: Mapping[str, list[Starts]]) -> Coded:
    if not starts:
        return Coded(*tokenizer.encode(texts), {})
    sentences = {}
    for key, begins in starts.items():
        ids, sentences[key] = encode_sentences(tokenizer, texts, begins)
    after = np.concatenate([[0], np.cumsum(sentences[key])])
    return Coded(ids, np.diff(after[np.cumsum([0, *map(len, begins)])]), sentences)
