"""Extractive question answering: the answer is a stretch of a context, or there is none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from itertools import groupby
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.answers import answers_of
from ptm_lightning.data.batch import Batch, in_parts
from ptm_lightning.data.example_data import CALLED, ExampleData, Split
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.formats import Row
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.predict import Text
from ptm_lightning.data.questions import (
    FIELDS,
    Misplaced,
    QuestionCollate,
    QuestionReader,
    QuestionRows,
    flat_fields,
    notes,
    null_token,
)
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.windows import Windows, cut_windows
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Record
from ptm_lightning.figures import Figure, threshold_curve
from ptm_lightning.finetuning import FineTuning
from ptm_lightning.log import say
from ptm_lightning.metrics.question_answering import (
    Units,
    answer_scores,
    best_threshold,
    by_question,
    f1_by_threshold,
    over_windows,
    question_scores,
)
from ptm_lightning.spans import Found, best_over_rows, candidates_of_rows
from ptm_lightning.terms import Term, Terms

TERM = "span"
THRESHOLD = "no_answer_threshold"
"""The field of the network's config that says from which doubt on no answer is given; without it each is answered."""
NOTHING = Found(-torch.inf, 0, 0)
"""What is found in a window of white space alone."""
ROWS = 32
"""Windows that go through the network at once in prediction."""


class QuestionAnsweringData(ExampleData):
    """Questions on contexts, with the stretches of these that answer them: SQuAD's files, or rows.

    A context that is too long for a row is cut into windows that overlap.
    """

    fields: ClassVar[tuple[str, ...]] = FIELDS

    train: list[str] = field(default_factory=lambda: ["builtin:questions"])
    """What to train on: SQuAD's .json, or files with the columns question, context and answers, folders, the hub."""
    max_length: int = 384
    """Tokens of the longest row: the question (half of it at most), a window of the context, and special tokens."""
    stride: int | None = None
    """Tokens from the beginning of a window to that of the next; default: a third of max_length."""
    misplaced: Misplaced = "refuse"
    """What to do with rows whose answers don't stand in their context where they should."""

    def reader(self) -> QuestionReader:
        """Questions with their answers."""
        return QuestionReader(self.misplaced)

    def make_frame(self) -> Frame:
        """The special tokens of a row, one of which means that there is no answer."""
        made = super().make_frame()
        if self.stride is not None and not 0 < self.stride <= self.max_length - len(self.template):
            raise UserError(
                f"--data.stride {self.stride}: a row has room for {self.max_length - len(self.template)} tokens; "
                "give at least 1 and not more than that, or windows would leave text out"
            )
        self._rows = QuestionRows(self.template, null_token(self.template, self.hf_tokenizer.cls_token_id))
        return made

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """A row for each window."""
        assert isinstance(store, ExampleStore)
        return self._windows(store)

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Windows with the answers' places; in evaluation with their characters and the rows they are of."""
        return QuestionCollate(self._windows(store), self._rows, TERM, evaluate)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """All windows of some contexts."""
        rows = [dict(text.row) | {"id": text.id} for text in texts]
        ids, lengths, offsets = flat_fields(self.coder, rows)
        self.note_cut(int((lengths[:, 0] > (self.max_length - len(self.template)) // 2).sum()), len(texts))
        cut = cut_windows(lengths, self.max_length - len(self.template), self._stride)
        starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)[cut.example]
        starts[:, -1] += cut.begin
        batch = self._rows(ids, starts, cut, (offsets[:, 0], offsets[:, 1]))
        batch["rows"] = [rows[example] for example in cut.example]
        return batch

    def facts(self) -> dict[str, str]:
        """How often rows repeat, and how many questions have no answer."""
        provenance = self.corpus.provenance
        shares = {f"rows whose text is {name}": f"{count:,}" for name, count in provenance["duplicates"].items()}
        return shares | {name: f"{count:,}" for name, count in provenance["questions"].items()}

    def show_row(self, batch: Batch, row: int) -> str:
        """A window for people, with the answer in it."""
        first, last = batch["spans"][row].tolist()
        answer = "no answer here"
        if first != int(batch["nulls"][row]):
            answer = str(self.hf_tokenizer.decode(batch["input_ids"][row, first : last + 1]))
        return f"{super().show_row(batch, row)}\n  -> {answer}"

    @property
    def _stride(self) -> int:
        return self.stride or max(1, self.max_length // 3)

    def _windows(self, store: ExampleStore) -> Windows:
        return Windows(store, self.template, self.max_length, self._stride)

    def _say_what_is_cut(self, split: Split, store: ExampleStore) -> None:
        longest, counts = getattr(self._task, "max_answer_tokens", None), self.corpus.provenance["questions"]
        for note in notes(self._windows(store), CALLED[split], longest, all_answered=not counts["without an answer"]):
            say(note)


class QuestionAnswering(FineTuning):
    """A network that points at the first and the last token of the answer, or at its first token if there is none.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - questions without an answer: SQuAD 2, 2018, https://arxiv.org/abs/1806.03822
    """

    data_class: ClassVar[type[TaskData]] = QuestionAnsweringData
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    headline: ClassVar[tuple[str, ...]] = ("exact_match", "f1")
    found: ClassVar[tuple[str, ...]] = (THRESHOLD,)
    prediction_arguments: ClassVar[tuple[str, ...]] = ("max_answer_tokens", "n_best", "no_answer_threshold")

    max_answer_tokens: int = 30
    """Tokens of the longest answer that is given."""
    n_best: int = 20
    """Answers that a prediction lists, and shares the probability among."""
    no_answer_threshold: float | None = None
    """By how much "no answer" must be the better one to be given; default: what is best on the validation data."""
    f1_units: Units = "auto"
    """What F1 compares: auto is characters if the answers are mostly Chinese or Japanese, and else words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_answer_tokens", "n_best"):
            if getattr(self, name) < 1:
                raise UserError(f"--model.{name} {getattr(self, name)}: give 1 or more")

    def terms(self, batch: Batch) -> Terms:
        """The mean of the cross-entropies of the first and of the last token, over the real tokens of a window."""
        return self._terms(self._logits(batch), batch)

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The term, and the best answer in each window."""
        logits = self._logits(batch)
        numbers = zip(batch["windows"].tolist(), batch["examples"].tolist(), strict=True)
        spans, nulls = self._found(logits, batch, 1)
        found = zip(numbers, batch["rows"], (next(iter(best), NOTHING) for best in spans), nulls, strict=True)
        records = [
            {
                "example": window,  # no other has this number, and all windows of an example count
                "question": question,
                "right": [answer.text for answer in answers_of(row, "")],
                "text": row["context"][best.begin : best.end],
                "score": best.score,
                "no_answer": null,
            }
            for (window, question), row, best, null in found
        ]
        return self._terms(logits, batch), records

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Exact match and F1; the threshold of no answer becomes the best in training, and 0 where none is known.

        Where every training question has an answer, every question is given one.
        """
        answered = list(by_question(records).values())
        unanswerable = self._link.provenance["questions"]["without an answer"]
        if self.no_answer_threshold is not None:
            self.keep(**{THRESHOLD: self.no_answer_threshold})
        elif self.trainer.state.fn == "fit":
            self.keep(**{THRESHOLD: best_threshold(answered, self.f1_units) if unanswerable else None})
        elif self.threshold is None and unanswerable and not all(question.right for question in answered):
            say("--model.no_answer_threshold: the model has none, and some questions have no answer: 0 is used")
            self.keep(**{THRESHOLD: 0.0})
        return answer_scores(answered, self.threshold, self.f1_units)

    def example_scores(self, records: Sequence[Record]) -> dict[str, dict[int, float]]:
        """Exact match and F1 of each question."""
        answered = by_question(records)
        found = question_scores(answered.values(), self.threshold, self.f1_units)
        return {name: dict(zip(answered, values, strict=True)) for name, values in found.items()}

    def figures(self) -> dict[str, Figure]:
        """F1 by the threshold of no answer, if there are questions without one."""
        answered = list(by_question(self.evaluation.records).values())
        if all(question.right for question in answered):
            return {}
        return {"threshold": threshold_curve(*f1_by_threshold(answered, self.f1_units), self.threshold)}

    def worst(self) -> Iterator[dict[str, Any]]:
        """Questions by the F1 of what is found, and of equal ones the answer that is surest first."""
        answered = by_question(self.evaluation.records)
        f1 = self.example_scores(self.evaluation.records)["f1"]
        for number in sorted(answered, key=lambda number: (f1[number], answered[number].doubt)):
            if f1[number] < 100:
                one, row = answered[number], self.evaluated(number)
                found = one.text if self._gives(one.doubt) else ""
                shown = {"answers": " | ".join(one.right), "found": found, "doubt": one.doubt, "f1": f1[number]}
                yield {name: row[name] for name in FIELDS} | shown

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """F1."""
        return "val/f1", "max"

    @property
    def threshold(self) -> float | None:
        """The doubt above which no answer is given; None: every question is answered."""
        if self.no_answer_threshold is not None:
            return self.no_answer_threshold
        kept: float | None = self.kept(THRESHOLD)
        return kept

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Windows of a batch, the right answers to the questions, and what is found in them."""
        tokenizer, (_, records) = self.tokenizer(), self.evaluate(batch)
        assert tokenizer is not None
        rows = zip(batch["input_ids"], batch["document_ids"], strict=True)
        texts = [tokenizer.decode(ids[real > 0]) for ids, real in rows]
        found = [over_windows([record]) for record in records]
        return [
            {"window": str(text), "answers": " | ".join(one.right), "found": one.text if self._gives(one.doubt) else ""}
            for text, one in zip(texts, found, strict=True)
        ]

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The best answer to each question, "" if there is none, and the best ones by their chances."""
        windows: list[tuple[int, Row, list[Found], float]] = []
        for part in in_parts(batch, ROWS):
            found = self._found(self._logits(part), part, self.n_best)
            windows += zip(part["examples"].tolist(), part["rows"], *found, strict=True)
        questions = groupby(windows, key=lambda window: window[0])
        return [self._prediction(list(mine)) for _, mine in questions]

    def _logits(self, batch: Batch) -> Tensor:
        """(R, T, 2): of the first and of the last token; -inf at padding, so that a row doesn't depend on others."""
        assert self.network is not None
        output = self.network(**self.inputs(batch))
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
        return logits.masked_fill((batch["document_ids"] == 0).unsqueeze(-1), -torch.inf)

    def _terms(self, logits: Tensor, batch: Batch) -> Terms:
        total = functional.cross_entropy(logits, batch["spans"], reduction="sum")
        return {TERM: Term(total / 2, batch["counts"][TERM])}

    def _found(self, logits: Tensor, batch: Batch, count: int) -> tuple[list[list[Found]], list[float]]:
        """The best answers in each window, and the score of there being none."""
        nulls = logits[torch.arange(len(logits), device=logits.device), batch["nulls"]].sum(dim=-1)
        return candidates_of_rows(logits, batch["characters"], self.max_answer_tokens, count), nulls.tolist()

    def _gives(self, doubt: float) -> bool:
        return self.threshold is None or doubt <= self.threshold

    def _prediction(self, windows: Sequence[tuple[int, Row, list[Found], float]]) -> dict[str, Any]:
        row, no_answer = windows[0][1], min(null for *_, null in windows)
        found = best_over_rows((mine for _, _, mine, _ in windows), self.n_best)
        chances = torch.tensor([no_answer, *(one.score for one in found)]).softmax(dim=0).tolist()
        given = bool(found) and self._gives(no_answer - found[0].score)
        answers = [
            {"text": row["context"][one.begin : one.end], "score": chance, "start": one.begin, "end": one.end}
            for one, chance in zip(found, chances[1:], strict=True)
        ]
        return {
            "id": row["id"],
            "question": row["question"],
            "prediction": answers[0]["text"] if given else "",
            "score": chances[int(given)],
            "doubt": no_answer - found[0].score if found else None,
            "answers": answers,
        }
