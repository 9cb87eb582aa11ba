"""Token ids of many texts, each distinct word tokenized once: faster than the tokenizer alone, with the same ids.

A corpus repeats its words, and most tokenizers treat each of them by itself. So texts are cut where their tokenizer
surely cuts as well, and what has been seen before is looked up.
"""

import json
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Coded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]

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


@dataclass(frozen=True)
class Cut:
    """How a text may be cut so that the ids of its pieces in a row are the ids of the whole."""

    sure: Callable[[str], bool]
    """Whether that is known of a text."""
    pieces: Callable[[str], list[str]]
    """The pieces of such a text."""
    spaces: frozenset[int] | None
    """Tokens of the one white character before a word that aren't part of the word; None if that isn't known."""

    def __call__(self, text: str) -> list[str]:
        """The pieces of any text: itself where nothing else is sure."""
        return self.pieces(text) if self.sure(text) else [text]


class CachedTokenizer:
    """A tokenizer that remembers the words it has seen.

    Args:
        tokenizer: Without padding and truncation. Any is served; the known kinds are served fast: WordPiece as BERT has
            it, byte-level BPE by GPT-2's rule, and SentencePiece as published for T5, ALBERT, XLNet and XLM-R or as
            trained here.
        memory: Bytes, about, that words may take before they are forgotten and the cache is filled anew.
    """

    def __init__(self, tokenizer: Tokenizer, memory: int = _BYTES) -> None:
        self.tokenizer = tokenizer
        self.cut = find_cut(tokenizer)
        self._memory = memory
        self._forget()

    def _forget(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._ids = array("I")
        self._ends = array("q", [0])
        self._bytes = 0

    def encode(self, texts: Iterable[str]) -> Coded:
        """The ids of texts, without special tokens around them.

        Args:
            texts: Any number.

        Returns:
            The ids of all texts in a row, shape (tokens,), and how many each text has, shape (texts,).
        """
        return self.encode_pieces(map(self.cut, texts))

    def encode_each(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, without special tokens around them."""
        ids, sizes = self.encode(texts)
        flat, ends = ids.tolist(), np.cumsum(sizes).tolist()
        return [flat[begin:end] for begin, end in pairwise([0, *ends])]

    def encode_pieces(self, groups: Iterable[list[str]]) -> Coded:
        """The ids of pieces that `cut` made, without special tokens around them.

        Args:
            groups: Any number.

        Returns:
            The ids of all groups in a row, shape (tokens,), and how many each group has, shape (groups,).
        """
        if self._bytes > self._memory:
            self._forget()
        sizes: list[int] = [0]
        numbers = np.fromiter(map(self._numbers.__getitem__, _counted(groups, sizes)), np.int64)
        if new := len(self._numbers) - len(self._ends) + 1:
            self._learn(list(islice(reversed(self._numbers), new))[::-1])
        ends, known = np.frombuffer(self._ends, np.int64), np.frombuffer(self._ids, np.uint32)
        begins, lengths = ends[numbers], ends[numbers + 1] - ends[numbers]
        after = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(after[-1]) + np.repeat(begins - after[:-1], lengths)
        return known[at], np.diff(after[np.cumsum(sizes)])

    def _learn(self, pieces: list[str]) -> None:
        """Tokenizes pieces that have the next numbers."""
        groups = [pieces[i : i + _TOGETHER] for i in range(0, len(pieces), _TOGETHER)]
        encodings = self.tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
            self._ends.frombytes((self._ends[-1] + np.cumsum(lengths)).tobytes())
            self._ids.extend(encoding.ids)
            self._bytes += sum(map(len, group)) + _BYTES_OF_ENTRY * len(group)


def _counted(groups: Iterable[list[str]], sizes: list[int]) -> Iterator[str]:
    """The pieces of all groups; how many each has is appended to `sizes`."""
    for group in groups:
        sizes.append(len(group))
        yield from group


def find_cut(tokenizer: Tokenizer) -> Cut:
    """How a tokenizer's texts may be cut; a text is its own only piece where nothing else is sure."""
    description = json.loads(tokenizer.to_str())
    normalizers = list(_steps(description["normalizer"], "normalizers"))
    first, *others = [*_steps(description["pre_tokenizer"], "pretokenizers")] or [{"type": None}]
    added, skipped = description["added_tokens"], tokenizer.encode_special_tokens
    read = [token for token in added if not (skipped and token["special"])]
    within_words = all(step["type"] in _WITHIN_WORDS or step == _METASPACE for step in others)
    if read or description["model"].get("dropout") or not within_words or not all(map(_is_local, normalizers)):
        return _WHOLE
    if not normalizers and not others and first.items() >= _GPT2.items():
        return Cut(_is_spaced, _SPACED.findall, _spaces_as_bytes(tokenizer, description["post_processor"]))
    # It maps groups of characters, which may begin with a space unless all are ASCII.
    only_ascii = any(each["type"] == "Precompiled" for each in normalizers)
    if first["type"] in _AT_SPACES:
        return Cut(partial(_has_words, only_ascii=only_ascii, end_matters=False), str.split, frozenset())
    if first == _METASPACE and normalizers[-1:] == [_ONE_SPACE] and not any(map(_changes_spaces, normalizers)):
        space = tokenizer.token_to_id("▁")
        spaces = None if space is None else frozenset({space})
        return Cut(partial(_has_words, only_ascii=only_ascii, end_matters=True), str.split, spaces)
    return _WHOLE


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


def _changes_spaces(normalizer: dict[str, Any]) -> bool:
    """Whether a normalizer may take a word away, or put spaces around it."""
    return normalizer["type"] in ("BertNormalizer", "StripAccents") or normalizer.get("content") == ""


def _spaces_as_bytes(tokenizer: Tokenizer, processor: dict[str, Any] | None) -> frozenset[int] | None:
    space, line = map(tokenizer.token_to_id, "ĠĊ")
    if space is None or line is None or tokenizer.encode("\n", add_special_tokens=False).ids != [line]:
        return None
    # A space whose offset is trimmed has the next character's.
    trims = any(step.get("trim_offsets") for step in _steps(processor, "processors"))
    return frozenset({line} if trims else {line, space})


_WHOLE = Cut(lambda _: False, lambda text: [text], None)


def _is_spaced(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def _has_words(text: str, only_ascii: bool, end_matters: bool) -> bool:
    flat = text.replace("\n", " ")
    # SentencePiece takes a mark of its own in the text for a space.
    sure = flat.isprintable() and "▁" not in flat and (flat.isascii() or not only_ascii)
    return sure and not (end_matters and flat.endswith(" "))
