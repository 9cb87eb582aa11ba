"""Token classification: a tag for each word of a sentence, such as what kind of name it belongs to."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from itertools import chain, groupby, islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.answers import Span, trimmed
from ptm_lightning.data.batch import Batch, in_parts
from ptm_lightning.data.example_data import ExampleData, Split
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.labels import Labels
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.predict import Text
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tagged import (
    FIELDS,
    TaggedCollate,
    TaggedReader,
    TaggedRows,
    word_spans,
    words_begun,
    words_of_text,
)
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.windows import Windows, cut_windows, owned
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Record
from ptm_lightning.figures import Figure, confusion
from ptm_lightning.finetuning import FineTuning
from ptm_lightning.log import say
from ptm_lightning.metrics.token_classification import OUTSIDE, Entity, entities, entity_scores, marks_entities, odd_tag
from ptm_lightning.terms import Term, Terms

TERM = "tags"
ROWS = 32
"""Windows that go through the network at once in prediction."""


class TokenClassificationData(ExampleData):
    """Sentences as lists of words with a tag for each; one that is too long is cut into windows that overlap."""

    fields: ClassVar[tuple[str, ...]] = FIELDS

    train: list[str] = field(default_factory=lambda: ["builtin:entities"])
    """What to train on: files with the columns tokens and tags (lists), .conll files, folders, the hub."""
    stride: int | None = None
    """Tokens from the beginning of a window to that of the next; default: half of max_length."""

    def reader(self) -> TaggedReader:
        """Words and tags; those of a trained model are the only ones allowed."""
        return TaggedReader(Labels("single_label_classification", *self.model_labels()))

    def make_frame(self) -> Frame:
        """The special tokens of a row."""
        made = super().make_frame()
        if self.stride is not None and not 0 < self.stride <= self._room:
            raise UserError(
                f"--data.stride {self.stride}: a row has room for {self._room} tokens; "
                "give at least 1 and not more than that, or windows would leave text out"
            )
        return made

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """A row for each window."""
        assert isinstance(store, ExampleStore)
        return self._windows(store)

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Windows with the tags of their words."""
        return TaggedCollate(self._windows(store), TaggedRows(self.template), TERM, evaluate)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """All windows of some sentences, given as words or as text, whose words are then the tokenizer's."""
        coded = self.coder.encode_batch([text.text for text in texts], add_special_tokens=False)
        rows, begun = [], []
        for text, encoding in zip(texts, coded, strict=True):
            offsets, given = trimmed(encoding.offsets, text.text), text.row[FIELDS[0]]
            words = words_of_text(encoding, offsets) if isinstance(given, str) else word_spans(given)
            begun.append(words_begun(offsets, words))
            rows.append({"id": text.id, "text": text.text, "words": words})
        lengths = np.array([[len(encoding.ids)] for encoding in coded])
        cut = cut_windows(lengths, self._room, self._stride)
        own = owned(cut, lengths[cut.example, 0], self._room, self._stride)
        starts = (np.cumsum(lengths) - lengths.ravel())[cut.example] + cut.begin
        ids, word = (np.fromiter(chain.from_iterable(lists), np.int64) for lists in ([one.ids for one in coded], begun))
        batch = TaggedRows(self.template)(ids, starts[:, None], cut, own, word)
        batch["rows"] = [rows[example] for example in cut.example]
        return batch

    def show_row(self, batch: Batch, row: int) -> str:
        """A window for people, with the tags of its own words."""
        width = batch["input_ids"].shape[1]
        mine = batch["target_index"] // width == row
        ids = batch["input_ids"].flatten()[batch["target_index"][mine]].tolist()
        names = [self.link.labels[tag] for tag in batch["targets"][mine].tolist()]
        tokens = self.hf_tokenizer.convert_ids_to_tokens(ids)
        return " ".join(f"{token}/{name}" for token, name in zip(tokens, names, strict=True))

    @property
    def _room(self) -> int:
        return self.max_length - len(self.template)

    @property
    def _stride(self) -> int:
        return self.stride or max(1, self.max_length // 2)

    def _windows(self, store: ExampleStore) -> Windows:
        return Windows(store, self.template, self.max_length, self._stride)

    def _say_what_is_cut(self, split: Split, store: ExampleStore) -> None:
        """Nothing is."""


class TokenClassification(FineTuning):
    """A network that gives each word a tag, at the word's first token.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
    """

    data_class: ClassVar[type[TaskData]] = TokenClassificationData
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    labelled: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy", "accuracy_majority")

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy over the words."""
        return self._terms(self.logits_at_targets(batch), batch)

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The term, and the tags that each window's own words get."""
        logits, names = self.logits_at_targets(batch), self._link.labels
        tags = [names[tag] for tag in logits.argmax(dim=-1).tolist()]
        numbers = zip(batch["windows"].tolist(), batch["examples"].tolist(), batch["rows"], strict=True)
        words = _by_row(batch, batch["words"].tolist(), tags)
        return self._terms(logits, batch), [
            {
                "example": window,  # no other has this number, and all windows of an example count
                "sentence": sentence,
                "right": [str(tag) for tag in row["tags"]],
                "guessed": found,
            }
            for (window, sentence, row), found in zip(numbers, words, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Precision, recall and F1 of entities, and the accuracy of tags, beside that of the commonest one."""
        right, guessed = zip(*_sentences(records).values(), strict=True)
        counts: dict[str, int] = self._link.provenance["labels"]
        commonest = max(counts, key=counts.__getitem__)
        shares = [tag == commonest for tags in right for tag in tags]
        return entity_scores(right, guessed, self._link.labels) | {"accuracy_majority": sum(shares) / len(shares)}

    def example_scores(self, records: Sequence[Record]) -> dict[str, dict[int, float]]:
        """F1 of the entities of each sentence, 1 if it has none and none is found; or the share of its right tags."""
        name = "f1" if marks_entities(self._link.labels) else "accuracy"
        worth = {
            sentence: 1.0 if right == guessed else entity_scores([right], [guessed], self._link.labels)[name]
            for sentence, (right, guessed) in _sentences(records).items()
        }
        return {f"sentence_{name}": worth}

    def figures(self) -> dict[str, Figure]:
        """Which tags words get instead of which."""
        right, guessed = zip(*_sentences(self.evaluation.records).values(), strict=True)
        names = list(dict.fromkeys([*self._link.labels, *chain.from_iterable(guessed)]))
        found, wanted = (torch.tensor([names.index(tag) for tags in side for tag in tags]) for side in (guessed, right))
        return {"confusion_matrix": confusion(found, wanted, names)}

    def worst(self) -> Iterator[dict[str, Any]]:
        """Sentences by how many of their tags are wrong."""
        sentences = _sentences(self.evaluation.records)
        wrong = {number: sum(map(operator.ne, *tags)) for number, tags in sentences.items()}
        for number in sorted(wrong, key=lambda number: -wrong[number]):
            if wrong[number]:
                right, guessed = map(" ".join, sentences[number])
                tokens = as_text(self.evaluated(number)["tokens"])
                yield {"tokens": tokens, "tags": right, "guessed": guessed, "wrong": wrong[number]}

    def setup(self, stage: str) -> None:
        """Says if a single tag keeps the others from being scored as entities."""
        super().setup(stage)
        if odd := odd_tag(self._link.labels):
            say(f"the tag {odd} marks no entity, as the others do by B- and I-: words are scored, and no entities")

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """F1 of entities, or the accuracy of tags that mark none."""
        return ("val/f1" if marks_entities(self._link.labels) else "val/accuracy"), "max"

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """The words that are read in each window of a batch, with the right tags and those they get."""
        _, records = self.evaluate(batch)
        return [
            {
                "tokens": " ".join(row["tokens"][number] for number, _ in record["guessed"]),
                "tags": " ".join(record["right"][number] for number, _ in record["guessed"]),
                "guessed": " ".join(tag for _, tag in record["guessed"]),
            }
            for row, record in zip(batch["rows"], records, strict=True)
        ]

    def example_text(self) -> str | None:
        """A text to find names in."""
        return "Calls os.path.join with 2 arguments, or raises a ValueError."

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The entities of each text, or where tags mark none, the tags of its words."""
        assert self.network is not None
        logits = torch.cat([self.network(**self.inputs(part)).logits.float() for part in in_parts(batch, ROWS)])
        chances, tags = logits.flatten(0, 1)[batch["target_index"]].softmax(dim=-1).max(dim=-1)
        names = self._link.labels
        found = _by_row(batch, batch["words"].tolist(), [names[tag] for tag in tags.tolist()], chances.tolist())
        windows = zip(batch["examples"].tolist(), batch["rows"], found, strict=True)
        texts = [list(mine) for _, mine in groupby(windows, key=lambda window: window[0])]
        return [self._prediction(mine[0][1], [word for *_, words in mine for word in words]) for mine in texts]

    def _terms(self, logits: Tensor, batch: Batch) -> Terms:
        total = functional.cross_entropy(logits.float(), batch["targets"], reduction="sum")
        return {TERM: Term(total, batch["counts"][TERM])}

    def _prediction(self, row: dict[str, Any], found: list[tuple[int, str, float]]) -> dict[str, Any]:
        text, words = row["text"], [row["words"][number] for number, *_ in found]
        tags, chances = [tag for _, tag, _ in found], [chance for *_, chance in found]
        spans = [Entity(tag, place, place) for place, tag in enumerate(tags)]
        if marks_entities(self._link.labels):
            spans = entities(tags)
        listed = [
            {"entity": kind, "score": float(np.mean(chances[first : last + 1])), **_stretch(words, first, last, text)}
            for kind, first, last in spans
        ]
        return {"id": row["id"], "text": text, "prediction": listed}


def _stretch(words: Sequence[Span], first: int, last: int, text: str) -> dict[str, Any]:
    begin, end = words[first].first, words[last].last
    return {"text": text[begin:end], "start": begin, "end": end}


def _by_row(batch: Batch, *columns: Sequence[Any]) -> Iterator[list[Any]]:
    """For each row of a batch, tuples of what (N,) columns hold for its targets."""
    rows, width = batch["input_ids"].shape
    counts = torch.bincount(batch["target_index"] // width, minlength=rows).tolist()
    targets = zip(*columns, strict=True)
    return (list(islice(targets, count)) for count in counts)


def _sentences(records: Sequence[Record]) -> dict[int, tuple[list[str], list[str]]]:
    """By the sentence's number, its right tags and those that it gets."""
    by_number = groupby(records, key=lambda record: record["sentence"])
    sentences = {number: list(windows) for number, windows in by_number}
    return {number: (windows[0]["right"], _whole(windows)) for number, windows in sentences.items()}


def _whole(windows: Sequence[Record]) -> list[str]:
    """The tags of a sentence from those of its windows; a word without a token is outside of all entities."""
    tags = [OUTSIDE] * len(windows[0]["right"])
    for number, tag in chain.from_iterable(record["guessed"] for record in windows):
        tags[number] = tag
    return tags
