"""Sentences by punctuation: offline, for most languages, fast enough to run over a whole training text."""

# ruff: noqa: RUF001, RUF002 - full-width punctuation and typographic quotes are meant
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

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


# One class of characters first: the engine then looks for it without trying the rest at each position.
_CANDIDATE = re.compile(r"""[.!?…。！？｡।؟\n](?:(?<!\n)[.!?…。！？｡।؟"'”’»）)\]」』】]*)?(\s*)""")
_FULL_WIDTH = frozenset("。！？｡")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘„«])([^\s(\[\"'“‘„«]{1,9})$")
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """mr mrs ms dr prof rev gen sen rep hon capt lt col sgt st mt jr sr vs viz cf ca approx al resp incl fig figs
        eq eqs sec ch vol vols pp ed eds art op e.g i.e z.b d.h u.a u.s bzw vgl evtl ggf sog bspw nr abb tab hr fr mme
        mlle mgr av bd dept univ assn bros no jan feb mar apr jun jul aug sep sept oct nov dec""",
    )
)
_ONLY_BEFORE_DIGITS = frozenset(re.findall(r"\S+", "no art ch ed sec mar sep dec jan fig figs eq eqs vol pp nr tab"))


def spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand.

    A sentence ends at . ! ? … followed by white space and no small letter, unless the full stop belongs to an
    abbreviation, an initial or a number at the start of a line; at the full-width marks 。！？ wherever they stand; and
    at a line break, unless the next line goes on with a small letter. Together the spans hold all that isn't space.

    Args:
        text: Any text.

    Returns:
        (start, end) of each sentence in characters, without the white space around it.
    """
    found: list[tuple[int, int]] = []
    start = len(text) - len(text.lstrip())
    size = len(text)
    for match in _CANDIDATE.finditer(text, start):
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
    if mark in _FULL_WIDTH:
        return True
    if match.start(1) == after:
        return False  # no space after it: 3.14, example.org
    if "\n" in match[1]:
        return not following.islower() or match[1].count("\n") > 1
    if following.islower():
        return False
    if mark == "." and match.start(1) == at + 1:
        return not _is_short(text, start, at, following)
    return True


def _is_short(text: str, start: int, at: int, following: str) -> bool:
    """Whether the full stop at `at` marks an abbreviation, an initial, or a numbered item."""
    before = max(start, at - 10)
    word = _LAST_WORD.search(text[before:at])
    if word is None:
        return False
    last = word[1]
    if len(last) == 1 and last.isupper():
        return True
    if last.isdigit():
        return before + word.start(1) == start and len(last) <= 3
    low = last.lower()
    return low in _ABBREVIATIONS and (low not in _ONLY_BEFORE_DIGITS or following.isdigit())


def hashes(text: str) -> npt.NDArray[np.uint64]:
    """One number a sentence, equal where sentences differ in nothing but case and white space.

    Args:
        text: Any text.

    Returns:
        64-bit hashes (blake2b), shape (n,), in the order of `spans(text)`.
    """
    digests = [
        blake2b(" ".join(text[start:stop].casefold().split()).encode("utf-8", "replace"), digest_size=8).digest()
        for start, stop in spans(text)
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
