"""Sentences by punctuation: offline, for most languages, fast enough to run over a whole training text."""

# ruff: noqa: RUF001, RUF002 - full-width punctuation and typographic quotes are meant
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ptm_lightning.data.sentence_marks import (
    ABBREVIATIONS,
    AFTER_ORDINAL,
    CLOSING,
    DOTS,
    FULL_STOPS,
    GOES_ON,
    HALF_WIDTH_AFTER,
    NEED_SPACE,
    ONLY_BEFORE_DIGITS,
)

RULES = "rules"


@dataclass(frozen=True)
class Splitter:
    """Finds the sentences of a text."""

    key: str
    """Equal for splitters that find the same."""
    spans: Callable[[str], list[tuple[int, int]]]
    """(start, end) of each sentence in characters, rising; together they hold all that isn't space."""


@lru_cache(maxsize=4)
def find_splitter(name: str) -> Splitter:
    """The rules of this file, or spaCy.

    Args:
        name: "rules", or the name or folder of a spaCy pipeline, or a language that spaCy knows, such as `xx`.

    Raises:
        UserError: spaCy isn't installed, or doesn't know the name.
    """
    if name == RULES:
        return Splitter(RULES, spans)
    from ptm_lightning.data.spacy_sentences import load_spacy  # most runs do without spaCy

    key, spacy_spans = load_spacy(name)
    return Splitter(key, spacy_spans)


def _candidates(marks: Iterable[str]) -> re.Pattern[str]:
    """Where sentences may end. One class of characters comes first: the engine looks for it without trying the rest."""
    known, closing = re.escape("".join(sorted(marks))), re.escape(CLOSING)
    return re.compile(rf"[{known}\n](?:(?<!\n)[{known}{closing}]*)?(\s*)")


# The engine is ten times slower with a class of characters beyond U+FFFF in it, and few texts have any.
_RARE = [mark for mark in FULL_STOPS if mark > "\uffff"]
_CANDIDATE, _CANDIDATE_OF_ANY_SCRIPT = _candidates(FULL_STOPS.difference(_RARE)), _candidates(FULL_STOPS)
_HAS_RARE = re.compile(f"[{min(_RARE)}-{max(_RARE)}]")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘„«])([^\s(\[\"'“‘„«]{1,9})$")
_LETTER_AND_DOT = re.compile(r"[^\W\d_]\.")
_AFTER_LETTER_AND_DOT = re.compile(r"\b[^\W\d_]\.\s$")


def spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand.

    A sentence ends at . ! ? … followed by white space and no small letter, unless the full stop belongs to an
    abbreviation, an initial, a German date or a number at the start of a line; at . ! ? right after a Chinese or
    Japanese character; at the marks of other scripts (。！？ ۔ ։ ። ။ ।) wherever they stand, unless a comma or the like
    follows; and at a line break, unless the next line goes on with a small letter. Together the spans hold all that
    isn't space.

    Args:
        text: Any text.

    Returns:
        (start, end) of each sentence in characters, without the white space around it.
    """
    found: list[tuple[int, int]] = []
    start = len(text) - len(text.lstrip())
    size = len(text)
    candidate = _CANDIDATE_OF_ANY_SCRIPT if _HAS_RARE.search(text) else _CANDIDATE
    for match in candidate.finditer(text, start):
        after = match.end()
        if after < size and not _ends(text, start, match, after):
            continue
        stop = match.start(1)
        while stop > start and text[stop - 1].isspace():
            stop -= 1
        if stop > start:
            found.append((start, stop))
        start = after
    if start < size:
        stop = len(text.rstrip())
        if stop > start:
            found.append((start, stop))
    return found


def _ends(text: str, start: int, match: re.Match[str], after: int) -> bool:
    """Whether a sentence that began at `start` ends at this mark; `after` is where the next one would begin."""
    at = match.start()
    mark = text[at]
    following = text[after]
    if mark == "\n":
        return not following.islower() or "\n" in match[1]
    spaced = match.start(1) < after
    lone_dot = mark in DOTS and match.start(1) == at + 1
    if mark not in NEED_SPACE:
        return (spaced or following not in GOES_ON) and not (lone_dot and _is_short(text, start, at, after))
    if not spaced:
        return _ends_without_space(text, at, following)
    if "\n" in match[1]:
        return not following.islower() or match[1].count("\n") > 1
    return not following.islower() and not (lone_dot and _is_short(text, start, at, after))


def _ends_without_space(text: str, at: int, following: str) -> bool:
    """Whether a half-width mark at `at` ends Chinese or Japanese; elsewhere it doesn't: 3.14, example.org."""
    if not HALF_WIDTH_AFTER.match(text, at - 1) or text[at] not in ".!?" or text.startswith("..", at):
        return False
    if following.isascii() and following.isalnum():
        return following.isupper() and text[at] != "."
    return following not in GOES_ON


def _is_short(text: str, start: int, at: int, after: int) -> bool:
    """Whether the full stop at `at`, with more text at `after`, is an abbreviation's, an initial's, or a number's."""
    following = text[after]
    if text[at] != "." and text[at - 1].isdigit() and following.isdigit():
        return True
    before = max(start, at - 10)
    word = _LAST_WORD.search(text[before:at])
    if word is None:
        return False
    last = word[1]
    if len(last) == 1 and last.isalpha():
        in_pair = _LETTER_AND_DOT.match(text, after) or _AFTER_LETTER_AND_DOT.search(text[before : at - 1])
        return last.isupper() or in_pair is not None
    if last.isdigit():
        item = before + word.start(1) == start and len(last) <= 3
        return item or (len(last) <= 2 and AFTER_ORDINAL.match(text, after) is not None)
    low = last.lower()
    return low in ABBREVIATIONS and (low not in ONLY_BEFORE_DIGITS or following.isdigit())


def hashes(text: str, sentences: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint64]:
    """One number a sentence, equal where sentences differ in nothing but case and white space.

    Args:
        text: Any text.
        sentences: (start, end) of each in characters.

    Returns:
        64-bit hashes (blake2b), shape (sentences,).
    """
    digests = [
        blake2b(" ".join(text[start:stop].casefold().split()).encode("utf-8", "replace"), digest_size=8).digest()
        for start, stop in sentences
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
