"""Questions on contexts as examples: what is stored of them, and windows of them as batches with the answer's place.

Shapes: w windows of T places.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from ptm_lightning.data.answers import NO_TOKEN, Answer, Span, answers_of, stands_there, tokens_of, trimmed
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.example_data import field_lengths
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.noise import Bools, Ints
from ptm_lightning.data.template import Template
from ptm_lightning.data.windows import Cut, Windows, cut_windows, last_field_columns, spread
from ptm_lightning.errors import UserError

FIELDS = ("question", "context")
SHOWN = 3
"""Misplaced answers that a message shows."""
Misplaced = Literal["refuse", "skip"]
"""What to do with rows whose answers don't stand in their context where they should."""
MISPLACED = "misplaced"
"""What a store counts such rows as."""


class QuestionReader:
    """Reads questions, contexts and answers; the network is taught the first answer."""

    fields: tuple[str, ...] = FIELDS
    together: tuple[str, ...] = ("context",)
    known: Sequence[str] = ()

    def __init__(self, misplaced: Misplaced) -> None:
        self.misplaced = misplaced
        self.key: Any = ["questions", misplaced]
        self._counts = {"questions": 0, "without an answer": 0, "left out for a misplaced answer": 0}
        self._rows = 0
        self._wrong: list[str] = []

    def take(self, row: Row, where: str) -> None:
        """Takes in a training row."""
        answers = self._looked_at(row, where)
        self._counts["questions"] += 1
        self._counts["without an answer"] += not answers
        self._counts["left out for a misplaced answer"] = len(self._wrong)

    def check(self, row: Row, where: str) -> None:
        """Looks for misplaced answers of an evaluation row."""
        self._looked_at(row, where)

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Evaluation rows are checked by themselves."""

    def stratum(self, row: Row) -> int:
        """All rows are held out in the same share: a context's questions stay together."""
        return 0

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """What gives token ids, the stretch of the context that each token is, and the tokens of the first answer.

        Raises:
            UserError: Answers are misplaced, and were not to be skipped.
        """
        if self._wrong and self.misplaced == "refuse":
            shown = "".join(f"\n  {line}" for line in self._wrong[:SHOWN])
            raise UserError(
                f"--data.misplaced refuse: {len(self._wrong):,} of {self._rows:,} rows have an answer that isn't in "
                "the context where it says; correct answer_start (it counts characters from 0), "
                f"or leave such rows out with --data.misplaced skip{shown}"
            )
        self._rows, self._wrong = 0, []
        return lambda rows: map(_encoded, rows, *encoded_fields(tokenizer, rows))

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """The outputs of the head, and how many questions there are."""
        answered = self._counts["questions"] - self._counts["without an answer"]
        return {"labels": {"start": answered, "end": answered}, "questions": self._counts}

    def _looked_at(self, row: Row, where: str) -> list[Answer]:
        for name in FIELDS:
            if not row[name].strip():
                raise UserError(f"{where}: the {name} is empty; fill it or remove the row")
        answers = answers_of(row, where)
        self._rows += 1
        if (stray := _misplaced(answers, row["context"])) is not None:
            there = row["context"][max(0, stray.start) :][: max(10, len(stray.text))]
            self._wrong.append(f"{where}: {stray.text!r:.40} at {stray.start}, where {there!r:.40} stands")
        return answers


def _misplaced(answers: Iterable[Answer], context: str) -> Answer | None:
    """The first answer that isn't in its context at its offset."""
    return next((answer for answer in answers if not stands_there(answer, context)), None)


def _encoded(row: Row, question: Encoding, context: Encoding) -> Encoded:
    """A row to be stored; without tokens if it is left out."""
    answers, offsets = answers_of(row, ""), trimmed(context.offsets, row["context"])
    span = tokens_of(answers[0], offsets) if answers else Span(NO_TOKEN, NO_TOKEN)
    untaught = bool(answers) and span.first == NO_TOKEN  # the tokenizer drops all its characters
    misplaced = _misplaced(answers, row["context"]) is not None
    if untaught or not offsets or misplaced:
        return Encoded(((), ()), {}, {MISPLACED: misplaced})
    begin, end = ([0] * len(question.ids) + [span[side] for span in offsets] for side in (0, 1))
    columns = {"first": span.first, "last": span.last, "begin": begin, "end": end}
    return Encoded((question.ids, context.ids), columns)


def encoded_fields(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[list[Encoding]]:
    """Questions and contexts, each with offsets in characters."""
    return [tokenizer.encode_batch([row[name] for row in rows], add_special_tokens=False) for name in FIELDS]


@dataclass(frozen=True)
class QuestionRows:
    """Makes rows of windows."""

    template: Template
    null: tuple[int, int]
    """Which special token means that there is no answer: the nth before or behind which field."""

    def __call__(
        self, tokens: NDArray[Any], starts: Ints, cut: Cut, offsets: tuple[NDArray[Any], NDArray[Any]] | None
    ) -> Batch:
        """A batch without targets.

        Args:
            tokens: Where the fields' ids lie.
            starts: (w, 2) where each field begins there.
            cut: The windows.
            offsets: (tokens,) where each token begins and ends in its context, if that is wanted.
        """
        batch = self.template.rows(tokens, starts, cut.lengths)
        field, nth = self.null
        batch["nulls"] = torch.from_numpy(self.template.special_columns(cut.lengths)[:, field] + nth)
        batch["examples"] = torch.from_numpy(cut.example)
        batch["counts"] = {"tokens": int((batch["document_ids"] > 0).sum())}
        if offsets is not None:
            column = last_field_columns(self.template, cut.lengths)
            sides = [spread(side, starts[:, -1], cut.lengths[:, -1], column, batch) for side in offsets]
            batch["characters"] = torch.from_numpy(np.stack(sides, axis=-1))
        return batch


@dataclass(frozen=True)
class QuestionCollate:
    """Windows with the places of the answers."""

    windows: Windows
    rows: QuestionRows
    term: str
    evaluate: bool

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of w windows."""
        store = self.windows.store
        cut, starts = self.windows.read(pieces)
        offsets = (store.columns["begin"], store.columns["end"]) if self.evaluate else None
        batch = self.rows(store.tokens, starts, cut, offsets)
        answer = stored_answers(store, cut.example)
        column = last_field_columns(self.windows.template, cut.lengths)
        batch["spans"] = torch.from_numpy(spans_in_windows(answer, cut, column, batch["nulls"].numpy()))
        batch["counts"][self.term] = len(answer)
        if self.evaluate:
            batch["rows"] = list(store.rows(cut.example.tolist()))
            batch["windows"] = torch.from_numpy(pieces.start)
        return batch


def spans_in_windows(answer: Ints, cut: Cut, column: Ints, null: Ints) -> Ints:
    """The places of answers in rows.

    Args:
        answer: (w, 2) the first and last token of the context that the answer has; NO_TOKEN twice if there is none.
        cut: The windows.
        column: (w,) where the context begins in each row.
        null: (w,) the place that means that there is no answer.

    Returns:
        (w, 2); an answer that isn't wholly in its window isn't there.
    """
    place = answer - cut.begin[:, None]
    return np.where(_has_whole(answer, cut)[:, None], column[:, None] + place, null[:, None])


def _has_whole(answer: Ints, cut: Cut) -> Bools:
    """(w,) whether each window has all of its answer."""
    return np.asarray((answer[:, 0] >= cut.begin) & (answer[:, 1] < cut.begin + cut.lengths[:, -1]))


def stored_answers(store: ExampleStore, examples: Ints) -> Ints:
    """(n, 2) the first and the last token of some questions' first answer; NO_TOKEN twice if there is none."""
    return np.column_stack([store.columns[name][examples] for name in ("first", "last")])


def notes(windows: Windows, split: str, longest: int | None, *, all_answered: bool = False) -> Iterator[str]:
    """What a user should know of the questions of a split.

    Args:
        windows: Of its store.
        split: What it is called.
        longest: Tokens of the longest answer that is given, if that is known.
        all_answered: Whether every training question has an answer.
    """
    store, room, many = windows.store, windows.room, f"{len(windows.store):,} {split}"
    examples = np.arange(len(store))
    lengths, answers = field_lengths(store, examples), stored_answers(store, examples)
    if count := store.counted[MISPLACED]:
        yield f"--data.misplaced skip: {count:,} {split} questions are left out for a misplaced answer"
    if count := int((lengths[:, 0] > room // 2).sum()):
        yield f"--data.max_length {windows.max_length}: {count:,} of {many} questions are cut to {room // 2} tokens"
    cut = cut_windows(lengths, room, windows.stride)
    whole = np.unique(cut.example[_has_whole(answers[cut.example], cut)])
    if count := int((answers[:, 0] != NO_TOKEN).sum()) - len(whole):
        yield (
            f"--data.stride {windows.stride}: {count:,} of {many} questions have an answer that stands whole in no "
            "window, and are taken for questions without one; give a smaller stride, or a larger --data.max_length"
        )
    if longest is not None and (count := int((answers[:, 1] - answers[:, 0] >= longest).sum())):
        yield f"--model.max_answer_tokens {longest}: {count:,} of {many} questions have a longer answer; give more"
    if all_answered and (count := int((answers[:, 0] == NO_TOKEN).sum())):
        yield (
            f"--model.no_answer_threshold: {count:,} of {many} questions have no answer, but all in training have; a "
            "model that learns from these answers each question, unless a threshold is given"
        )


def null_token(template: Template, cls_id: int | None) -> tuple[int, int]:
    """Which special token of a row means that there is no answer: cls, or else the first.

    Returns:
        The field that it stands before (behind the last one: their number), and its number there.

    Raises:
        UserError: A row has no special tokens.
    """
    places = [(field, nth) for field, ids in enumerate(template.special) for nth in range(len(ids))]
    if not places:
        raise UserError("--data.tokenizer: puts no special token around a text, and one must stand for 'no answer'")
    return next(((field, nth) for field, nth in places if template.special[field][nth] == cls_id), places[0])


def flat_fields(tokenizer: Tokenizer, rows: Sequence[Row]) -> tuple[Ints, Ints, Ints]:
    """The tokens of rows one after the other, their fields in order.

    Returns:
        (n,) ids; (rows, fields) how many tokens each has; (n, 2) the characters of each in its field.
    """
    fields = list(zip(*encoded_fields(tokenizer, rows), strict=True))
    lengths = np.array([[len(one.ids) for one in row] for row in fields])
    ids = np.fromiter(chain.from_iterable(one.ids for row in fields for one in row), np.int64)
    spans = (
        trimmed(one.offsets, row[name])
        for row, both in zip(rows, fields, strict=True)
        for name, one in zip(FIELDS, both, strict=True)
    )
    return ids, lengths, np.array(list(chain.from_iterable(spans)), dtype=np.int64).reshape(-1, 2)
