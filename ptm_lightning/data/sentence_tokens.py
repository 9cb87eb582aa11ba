"""Token ids of texts, and how many each of their sentences has: by sentence where words end there, else by offsets."""

import unicodedata
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ptm_lightning.data.cached_tokenizer import CachedTokenizer, Coded, Cut

Starts = Sequence[int]
"""Characters at which the sentences of a text begin, rising; the first one's takes along what stands before it."""


def encode_sentences(tokenizer: CachedTokenizer, texts: Sequence[str], starts: Sequence[Starts]) -> Coded:
    """The ids of texts, without special tokens around them, and the sizes of their sentences.

    Args:
        tokenizer: Remembers words.
        texts: Any number.
        starts: Of each text, at least one.

    Returns:
        The ids of all texts in a row, shape (tokens,), and how many each sentence has, shape (sentences,). A token
        belongs to the sentence that its last character stands in: with bytes it begins with the space before it.
    """
    parts = [_pieces(tokenizer.cut, text, begins) for text, begins in zip(texts, starts, strict=True)]
    cut = np.array([part is not None for part in parts], np.bool_)
    known = _by_sentence(tokenizer, [part for part in parts if part is not None])
    whole = np.flatnonzero(~cut).tolist()
    others = _by_offsets(tokenizer.tokenizer, [texts[i] for i in whole], [starts[i] for i in whole])
    cut_sentences = np.repeat(cut, [len(begins) for begins in starts])
    sizes = _merged(cut_sentences, known[1], others[1])
    return _merged(np.repeat(cut_sentences, sizes), known[0], others[0]), sizes


def _pieces(cut: Cut, text: str, starts: Starts) -> list[list[str]] | None:
    """The pieces of each sentence, with the white character before it; None where a token may cross a border."""
    later = starts[1:]
    if cut.spaces is None or not cut.sure(text) or not all(_begins_word(text, start) for start in later):
        return None
    borders = [0, *(start - 1 for start in later), len(text)]
    return [cut.pieces(text[begin:end]) for begin, end in pairwise(borders)]


def _begins_word(text: str, start: int) -> bool:
    first = text[start]
    if text[start - 1] not in " \n":
        return False
    # Some characters become a space and another one, others go into the character before or away.
    return first.isascii() or unicodedata.category(unicodedata.normalize("NFKD", first)[0])[0] not in "MZC"


def _by_sentence(tokenizer: CachedTokenizer, texts: Sequence[list[list[str]]]) -> Coded:
    ids, sizes = tokenizer.encode_pieces(chain.from_iterable(texts))
    first = ids[(np.cumsum(sizes) - sizes)[sizes > 0]]
    of_before = sizes > 0
    of_before[of_before] = np.isin(first, list(tokenizer.cut.spaces or ()))
    of_before[np.cumsum([0, *map(len, texts)])[:-1]] = False
    sizes -= of_before
    sizes[:-1] += of_before[1:]
    return ids, sizes


def _by_offsets(tokenizer: Tokenizer, texts: Sequence[str], starts: Sequence[Starts]) -> Coded:
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    sizes = [np.zeros(0, np.int64)]
    for encoding, begins in zip(encodings, starts, strict=True):
        last = np.array([max(end - 1, start) for start, end in encoding.offsets], np.int64)
        sentence = np.maximum(np.searchsorted(begins, last, side="right") - 1, 0)
        sizes.append(np.bincount(sentence, minlength=len(begins)))
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.uint32)
    return ids, np.concatenate(sizes)


def _merged(which: npt.NDArray[np.bool_], first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Those of the first where `which` says so, those of the second elsewhere."""
    merged = np.empty(len(which), first.dtype)
    merged[which] = first
    merged[~which] = second
    return merged
