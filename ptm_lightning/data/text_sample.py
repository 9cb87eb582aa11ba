"""A part of a text that is spread evenly over it, found in one reading: what tokenizers are trained on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ptm_lightning.data.text_batches import number

PASSAGE = 10_000
"""Characters: a longer document is taken in passages, for a book may be a single one."""


@dataclass(frozen=True)
class Sample:
    """Passages in random order: any number of the first ones is a sample too."""

    passages: Sequence[str]
    bytes: int
    """Of these passages (UTF-8)."""
    total_bytes: int
    """Of the whole text."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.bytes == self.total_bytes

    def __str__(self) -> str:
        whole = f"{_size(self.total_bytes)} of text"
        return whole if self.whole else f"{_size(self.bytes)} of {whole}, spread evenly"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def sample_text(texts: Iterable[str], limit: int, on_progress: Callable[[int], None]) -> Sample:
    """Chooses passages by a hash of their text: the same ones in any order of the texts, whoever reads them.

    Args:
        texts: Documents; read once, of which `limit` bytes are held in memory.
        limit: Bytes (UTF-8) to keep at most.
        on_progress: Takes the bytes read since the last call.
    """
    kept: list[tuple[int, int, str]] = []
    border, size, total = 2**64, 0, 0
    for text in texts:
        for begin in range(0, len(text), PASSAGE):
            passage = text[begin : begin + PASSAGE]
            data = passage.encode("utf-8", "replace")
            total += len(data)
            on_progress(len(data))
            if (key := number(data)) >= border:
                continue
            kept.append((key, len(data), passage))
            size += len(data)
            while size > limit:
                border //= 2
                kept = [each for each in kept if each[0] < border]
                size = sum(length for _, length, _ in kept)
    kept.sort()
    return Sample([passage for _, _, passage in kept], size, total)


def with_few_words(sample: Sample, characters: int) -> Sample:
    """As many passages of a sample as have different words of so many characters; one at least.

    A unigram tokenizer's training takes time by this number, and a text without spaces is all different words.
    """
    words: set[str] = set()
    left = characters
    for count, passage in enumerate(sample.passages):
        new = set(passage.split()) - words
        if (left := left - sum(map(len, new))) < 0 and count:
            kept = sample.passages[:count]
            return Sample(kept, sum(len(each.encode("utf-8", "replace")) for each in kept), sample.total_bytes)
        words |= new
    return sample
