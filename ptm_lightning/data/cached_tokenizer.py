"""Token ids of many texts, each distinct word tokenized once: faster than the tokenizer alone, with the same ids.

A corpus repeats its words, and most tokenizers treat each of them by itself. So texts are cut where their tokenizer
surely cuts as well, and what has been seen before is looked up.
"""

import json
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Cut = Callable[[str], list[str]]

_TOGETHER = 64
"""Pieces in one call of the tokenizer; several such groups keep all cores busy."""
_BYTES = 50_000_000
"""Memory for pieces before all are forgotten: those of about 300,000 words."""
_BYTES_OF_ENTRY = 150

# In a text whose only white characters are spaces and line breaks, these do nothing across them.
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "StripAccents"}
_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_WITHIN_WORDS = _AT_SPACES | {"Digits", "Punctuation", "Split"}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# GPT-2's rule for white space; the tokenizer cuts on within what stands between.
_SPACED = re.compile(r" ?\S+|\s+(?!\S)|\s+")


class CachedTokenizer:
    """A tokenizer that remembers the words it has seen.

    Args:
        tokenizer: Without padding and truncation. Any is served; the known kinds are served fast: WordPiece as BERT has
            it, byte-level BPE by GPT-2's rule, and SentencePiece as published for T5, ALBERT, XLNet and XLM-R or as
            trained here.
        memory: Bytes, about, that words may take before they are forgotten and the cache is filled anew.
    """

    def __init__(self, tokenizer: Tokenizer, memory: int = _BYTES) -> None:
        self._tokenizer = tokenizer
        self._memory = memory
        self._cut = find_cut(tokenizer)
        self._forget()

    def _forget(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._ids = array("I")
        self._ends = array("q", [0])
        self._bytes = 0

    def encode(self, texts: list[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The ids of texts, without special tokens around them.

        Args:
            texts: Any number.

        Returns:
            The ids of all texts in a row, shape (tokens,), and how many each text has, shape (texts,).
        """
        if self._bytes > self._memory:
            self._forget()
        pieces: list[int] = [0]
        numbers = np.fromiter(map(self._numbers.__getitem__, self._pieces(texts, pieces)), np.int64)
        if new := len(self._numbers) - len(self._ends) + 1:
            self._learn(list(islice(reversed(self._numbers), new))[::-1])
        ends, known = np.frombuffer(self._ends, np.int64), np.frombuffer(self._ids, np.uint32)
        begins, lengths = ends[numbers], ends[numbers + 1] - ends[numbers]
        after = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(after[-1]) + np.repeat(begins - after[:-1], lengths)
        return known[at], np.diff(after[np.cumsum(pieces)])

    def _pieces(self, texts: list[str], counts: list[int]) -> Iterator[str]:
        """The pieces of all texts; how many each has is appended to `counts`."""
        for text in texts:
            pieces = self._cut(text)
            counts.append(len(pieces))
            yield from pieces

    def _learn(self, pieces: list[str]) -> None:
        """Tokenizes pieces that have the next numbers."""
        groups = [pieces[i : i + _TOGETHER] for i in range(0, len(pieces), _TOGETHER)]
        encodings = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
            self._ends.frombytes((self._ends[-1] + np.cumsum(lengths)).tobytes())
            self._ids.extend(encoding.ids)
            self._bytes += sum(map(len, group)) + _BYTES_OF_ENTRY * len(group)


def find_cut(tokenizer: Tokenizer) -> Cut:
    """How a text may be cut so that the ids of its pieces in a row are the ids of the whole.

    Args:
        tokenizer: Any.

    Returns:
        A function that gives the pieces of a text: the text itself is the only one where nothing else is sure.
    """
    description = json.loads(tokenizer.to_str())
    normalizers = list(_steps(description["normalizer"], "normalizers"))
    first, *others = [*_steps(description["pre_tokenizer"], "pretokenizers")] or [{"type": None}]
    added, skipped = description["added_tokens"], tokenizer.encode_special_tokens
    read = [token for token in added if not (skipped and token["special"])]
    within_words = all(step["type"] in _WITHIN_WORDS or step == _METASPACE for step in others)
    if read or description["model"].get("dropout") or not within_words or not all(map(_is_local, normalizers)):
        return _whole
    if not normalizers and not others and first.items() >= _GPT2.items():
        return _with_space_before
    # It maps groups of characters, which may begin with a space unless all are ASCII.
    only_ascii = any(each["type"] == "Precompiled" for each in normalizers)
    if first["type"] in _AT_SPACES:
        return partial(_words, only_ascii=only_ascii, end_matters=False)
    if first == _METASPACE and normalizers[-1:] == [_ONE_SPACE]:
        return partial(_words, only_ascii=only_ascii, end_matters=True)
    return _whole


def _steps(step: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, in a flat row."""
    if step is not None and step["type"] == "Sequence":
        for inner in step[key]:
            yield from _steps(inner, key)
    elif step is not None:
        yield step


def _is_local(normalizer: dict[str, Any]) -> bool:
    """Whether what a normalizer makes of a word doesn't depend on the words beside it."""
    if normalizer["type"] in _NORMALIZERS or normalizer == _ONE_SPACE:
        return True
    if normalizer["type"] != "Replace":
        return False
    text: str = normalizer["pattern"].get("String", " ") + normalizer["content"]
    return text.split() == [text]


def _whole(text: str) -> list[str]:
    return [text]


def _with_space_before(text: str) -> list[str]:
    return _SPACED.findall(text) if text.replace("\n", "").isprintable() else [text]


def _words(text: str, only_ascii: bool, end_matters: bool) -> list[str]:
    flat = text.replace("\n", " ")
    # SentencePiece takes a mark of its own in the text for a space.
    sure = flat.isprintable() and "▁" not in flat and (flat.isascii() or not only_ascii)
    return [text] if not sure or (end_matters and flat.endswith(" ")) else flat.split()
