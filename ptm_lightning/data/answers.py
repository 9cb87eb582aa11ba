"""Answers as spans of the text that they are taken from: as users write them, and as places of tokens."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ptm_lightning.data.formats import Row
from ptm_lightning.errors import UserError

NO_TOKEN = -1
"""The place of an answer that there isn't."""


class Answer(NamedTuple):
    """A stretch of a context."""

    text: str
    start: int
    """Its first character's number in the context, from 0."""


class Span(NamedTuple):
    """A stretch of characters or tokens."""

    first: int
    last: int


def answers_of(row: Row, where: str) -> list[Answer]:
    """The right answers in a row, none if the question has no answer.

    Args:
        row: `answers` holds {"text": [...], "answer_start": [...]}, or a list of {"text": ..., "answer_start": ...}, or
            either of them as JSON text, for tables.
        where: Its file and line, for messages.

    Raises:
        UserError: There is no such column, or it holds something else.
    """
    if row.get("answers") is None or row["answers"] == "":
        raise UserError(
            f"{where}: no answers; the row's columns are {', '.join(row)}; name yours with --data.columns.answers "
            '(a question without an answer has {"text": [], "answer_start": []})'
        )
    try:
        given = json.loads(row["answers"]) if isinstance(row["answers"], str) else row["answers"]
        if isinstance(given, list):
            pairs = [(answer["text"], answer["answer_start"]) for answer in given]
        else:
            pairs = list(zip(given["text"], given["answer_start"], strict=True))
        if not all(type(text) is str and type(start) is int for text, start in pairs):
            raise TypeError
    except (KeyError, TypeError, ValueError) as error:
        shown = json.dumps(row["answers"], default=str)
        raise UserError(
            f"{where}: the answers are {shown:.60}; "
            'write {"text": ["...", ...], "answer_start": [0, ...]} with as many texts as numbers'
        ) from error
    return [Answer(text, start) for text, start in pairs]


def stands_there(answer: Answer, context: str) -> bool:
    """Whether an answer is a stretch of its context at its offset, and more than white space."""
    end = answer.start + len(answer.text)
    return answer.start >= 0 and bool(answer.text.strip()) and context[answer.start : end] == answer.text


def trimmed(offsets: Iterable[tuple[int, int]], text: str) -> list[Span]:
    """Tokens' (begin, end) in a text without the white space that some tokenizers count as theirs.

    A token of nothing else begins where it ends.
    """
    spans = []
    for begin, end in offsets:
        while begin < end and text[begin].isspace():
            begin += 1
        while begin < end and text[end - 1].isspace():
            end -= 1
        spans.append(Span(begin, end))
    return spans


def tokens_of(answer: Answer, offsets: Sequence[Span]) -> Span:
    """The first and last token that an answer has a character of; NO_TOKEN twice if there is none.

    Args:
        answer: In its context.
        offsets: Each token's (begin, end) in the context; neither ever falls.
    """
    begin = answer.start + len(answer.text) - len(answer.text.lstrip())
    end = answer.start + len(answer.text.rstrip())
    first = bisect_right(offsets, begin, key=lambda span: span.last)
    last = bisect_left(offsets, end, key=lambda span: span.first) - 1
    return Span(first, last) if first <= last else Span(NO_TOKEN, NO_TOKEN)
