"""CoNLL's files: a token a line, in columns; sentences divided by blank lines."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, dropwhile

Line = tuple[int, list[str]]
"""A line's number and its columns."""


def conll_sentences(lines: Iterable[str]) -> Iterator[list[Line]]:
    """The sentences of a file, without the comments before them and without what divides documents."""
    held, width = list[Line](), 0
    for number, line in enumerate(chain(lines, [""]), 1):
        columns = re.findall(r"[^ \t\r\n]+", line)  # other white space is a token's
        if columns and columns[0] != "-DOCSTART-":
            held.append((number, columns))
        elif held:
            width = next((len(own) for _, own in held if own[0] != "#"), width)
            if sentence := list(dropwhile(partial(_is_comment, width), held)):
                yield sentence
            held = []


def _is_comment(width: int, line: Line) -> bool:
    """Whether a line is none of those that have a token and so many columns."""
    sign, *others = line[1]
    # "# id NUMBER domain=en" of MultiCoNER and "# sent_id = 1" of Universal Dependencies may have as many columns.
    named = others[:1] == ["id"] or others[1:2] == ["="]
    return sign == "#" and (named or len(line[1]) != width)
