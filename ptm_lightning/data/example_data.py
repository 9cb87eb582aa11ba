"""ExampleData: the data module of tasks that are learned from rows of columns, such as a text and its label."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.corpus_tokenizer import prepare_tokenizer
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.examples import Reader, find_sources, prepare_examples
from ptm_lightning.data.held_out import held_out_share
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.template import Template, fit_fields
from ptm_lightning.data.tokenizer import plain
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.models.head import backbone_head, backbone_labels
from ptm_lightning.models.start import CAUSAL

Split = Literal["train", "validation", "test"]
READ: dict[str, tuple[Split, ...]] = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
"""The splits that a stage reads."""
CALLED: dict[Split, str] = {"train": "training", "validation": "validation", "test": "test"}
"""In messages: training rows, and so on."""


def flags_of(stage: str) -> list[str]:
    """The flags of the sources that a stage reads."""
    return [f"--data.{split}" for split in READ.get(stage, ())]


@dataclass(frozen=True)
class LayOutExamples:
    """A row for each example, its fields shortened to fit."""

    store: ExampleStore
    special: int
    """Special tokens of a row."""
    max_length: int

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """One piece each: it begins where the example does, and is as long as what is kept of it."""
        kept = fit_fields(field_lengths(self.store, example_at(self.store, start)), self.max_length - self.special)
        return single_pieces(start, kept.sum(axis=1), draw)


@dataclass(frozen=True)
class FieldsCollate:
    """Rows of whole examples to a batch, without targets."""

    store: ExampleStore
    template: Template
    max_length: int

    def __call__(self, pieces: Pieces) -> tuple[Ints, Batch]:
        """The numbers of the examples (R,), and their rows."""
        examples = example_at(self.store, pieces.start)
        kept = fit_fields(field_lengths(self.store, examples), self.max_length - len(self.template))
        batch = self.template.rows(self.store.tokens, field_starts(self.store, examples), kept)
        batch["counts"] = {"tokens": int((batch["document_ids"] > 0).sum())}
        batch["examples"] = torch.from_numpy(examples)
        return examples, batch


def example_at(store: ExampleStore, start: Ints) -> Ints:
    """(R,) the examples that begin at or before these places of the store, which has no empty ones."""
    return np.asarray(np.searchsorted(store.offsets, start, side="right") - 1)


def single_pieces(start: Ints, length: Ints, draw: Ints) -> Pieces:
    """A row of one framed piece for each place of the store where one begins."""
    framed = np.ones(len(start), dtype=np.bool_)
    return Pieces(start, length, draw, np.arange(len(start)), framed, framed)


def field_starts(store: ExampleStore, examples: Ints) -> Ints:
    """(R, k) where each field begins in the store, as an array of the caller's own."""
    return np.array(store.field_offsets[_field_numbers(store, examples)])


def field_lengths(store: ExampleStore, examples: Ints) -> Ints:
    """(R, k) tokens of each field."""
    numbers = _field_numbers(store, examples)
    return np.asarray(store.field_offsets[numbers + 1] - store.field_offsets[numbers])


def _field_numbers(store: ExampleStore, examples: Ints) -> Ints:
    return examples[:, None] * store.fields + np.arange(store.fields)


class ExampleData(TaskData, ABC):
    """Rows of columns from files of any kind, each an example; a subclass says what they mean."""

    validation_share: float = 0.1
    """Share of the rows held out for validation when no source is given for it."""
    test_share: float = 0.1
    """Share of the rows held out for the test when no source is given for it."""

    fields: ClassVar[tuple[str, ...]]
    """The columns of text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cut = self._asked = 0
        self._coder: tuple[PreTrainedTokenizerFast, Tokenizer] | None = None

    @property
    def causal(self) -> bool:
        """Whether the network reads and answers in one row."""
        return self._task is not None and self._task.auto_class == CAUSAL

    @abstractmethod
    def reader(self) -> Reader:
        """What makes examples of rows."""

    @abstractmethod
    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """What makes a batch from the pieces of its rows: picklable, for it goes to the workers."""

    def model_labels(self) -> tuple[list[str], list[str]]:
        """The labels that the model has been trained for, and those of a pretrained network that it starts from."""
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        if task is None:
            return [], []
        if task.link is not None:
            return list(task.link.labels), []
        if head := self.evaluated_head():
            return list(head["labels"]), []
        return [], backbone_labels(task.backbone) if task.backbone else []

    @property
    def new_backbone(self) -> str | None:
        """The pretrained network of a task that hasn't met any data of ours."""
        task = self._task
        return task.backbone if task is not None and task.link is None else None

    def evaluates_alone(self) -> bool:
        """Whether a pretrained network is evaluated as it is, on rows of the user's, without any to train on."""
        function = self.trainer.state.fn if self.trainer is not None else None
        rows = {"validate": self.validation, "test": self.test}.get(function or "")
        default = next(one.default_factory for one in fields(self) if one.name == "train")
        return bool(self.new_backbone and rows) and callable(default) and self.train == default()

    def evaluated_head(self) -> dict[str, Any]:
        """The labels and problem type of a pretrained head that is evaluated alone; nothing if it isn't."""
        task: Any = self._task
        return backbone_head(task.backbone) if self.evaluates_alone() and getattr(task, "labelled", False) else {}

    def example_ids(self, store: ExampleStore, numbers: Sequence[int]) -> list[str]:
        """What evaluated examples of a store are known by: the rows' own ids, if all differ, else the numbers."""
        own = [row.get("id") for row in store.rows(numbers)]
        ids = numbers if None in own or len(set(map(str, own))) < len(own) else own
        return list(map(str, ids))

    def settings(self) -> CorpusSettings:
        """All that the tokens depend on; rows that a pretrained network is evaluated on stand for training rows."""
        settings = replace(super().settings(), fields=self.fields)
        labelled = getattr(self._task, "labelled", False)
        alone = bool(self.evaluated_head()) if labelled else self.evaluates_alone()
        return replace(settings, train=(), validation_share=0.0) if alone else settings

    def open_corpus(self) -> Corpus:
        """Opens the stores of examples; makes first what the cache doesn't have."""
        settings = self.settings()
        sources = find_sources(settings)
        self.hf_tokenizer, new_tokens = self.make_tokenizer(settings)
        test_share = held_out_share(self, "test") if settings.train else 0.0
        return prepare_examples(settings, sources, test_share, self.reader(), self.hf_tokenizer, new_tokens)

    def make_tokenizer(self, settings: CorpusSettings) -> tuple[PreTrainedTokenizerFast, NewTokens]:
        """The model's, one that is given, or one trained on the text; the reader is made after it."""
        return prepare_tokenizer(settings, self.given_tokenizer)

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what doesn't fit into a row."""
        super().setup(stage)
        for split in READ.get(stage, ()):
            store = getattr(self.corpus, split)
            if isinstance(store, ExampleStore):
                self._say_what_is_cut(split, store)
        for flag in flags_of(stage):
            if count := self.corpus.provenance["blank"].get(flag):
                say(f"{flag}: {count:,} blank rows are left out")
        if stage in READ and self.corpus.provenance["sources"]:
            self._say_what_occurs_before(stage)

    def make_frame(self) -> Frame:
        """The special tokens of a row; those between two fields are counted with the last."""
        self.template = Template.of(self.hf_tokenizer, len(self.fields))
        if self.max_length <= len(self.template):
            raise UserError(
                f"--data.max_length {self.max_length}: no room beside {len(self.template)} special tokens; give more"
            )
        first, *others = self.template.special
        return Frame(first, tuple(id_ for ids in others for id_ in ids))

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """A row for each example."""
        assert isinstance(store, ExampleStore)
        return LayOutExamples(store, len(self.template), self.max_length)

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """The task's."""
        assert isinstance(store, ExampleStore)
        return self.collate_examples(store, evaluate=evaluate)

    def predict_inputs(self) -> Iterator[Text]:
        """What to predict for, in order: the texts given right here, then the rows of the sources."""
        return predict_texts(self.predict, self.text, self.columns, required=self.fields)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Rows to predict for, without targets."""
        ids = list(zip(*encode_fields(self._encode_each, [text.row for text in texts], self.fields), strict=True))
        lengths = np.array([[len(one) for one in field] for field in ids], dtype=np.int64).T
        flat = [id_ for row in zip(*ids, strict=True) for field in row for id_ in field]
        starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
        room = self.max_length - len(self.template)
        self.note_cut(int((lengths.sum(axis=1) > room).sum()), len(texts))
        batch = self.template.rows(np.array(flat, dtype=np.int64), starts, fit_fields(lengths, room))
        batch["texts"] = [(text.id, text.text) for text in texts]
        return batch

    @property
    def coder(self) -> Tokenizer:
        """What turns texts to predict for into tokens, made once: a copy of a large vocabulary takes a batch's time."""
        if self._coder is None or self._coder[0] is not self.hf_tokenizer:
            self._coder = self.hf_tokenizer, self.make_coder()
        return self._coder[1]

    def make_coder(self) -> Tokenizer:
        """A tokenizer to which the names of special tokens are text."""
        return plain(self.hf_tokenizer)

    def _encode_each(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.coder.encode_batch_fast(texts, add_special_tokens=False)]

    def note_cut(self, cut: int, asked: int) -> None:
        """Counts what is cut of texts to predict for."""
        self._cut += cut
        self._asked += asked

    def teardown(self, stage: str) -> None:
        """Says what was cut of the texts to predict for."""
        if self._cut:
            say(f"--data.max_length {self.max_length}: cuts {self._cut:,} of {self._asked:,} texts to predict for")
        self._cut = self._asked = 0

    def facts(self) -> dict[str, str]:
        """How often rows repeat, and how often each label occurs."""
        provenance = self.corpus.provenance
        shares = {f"rows whose text is {name}": f"{count:,}" for name, count in provenance["duplicates"].items()}
        labels: dict[str, int] = provenance.get("labels", {})
        total = sum(labels.values())
        return shares | {f"label {name}": f"{count:,} ({count / total:.1%})" for name, count in labels.items()}

    def show_row(self, batch: Batch, row: int) -> str:
        """A row for people."""
        ids = batch["input_ids"][row][batch["document_ids"][row] > 0]
        return str(self.hf_tokenizer.decode(ids))

    def _say_what_occurs_before(self, stage: str) -> None:
        """Of all splits in training, and else of those that are evaluated."""
        found = self.corpus.provenance["duplicates"].items()
        told = [f"{n:,} {name}" for name, n in found if n and (stage == "fit" or name.startswith(READ[stage]))]
        if told:
            say(f"rows whose text occurs before: {', '.join(told)}")

    def _say_what_is_cut(self, split: Split, store: ExampleStore) -> None:
        long = int((np.diff(store.offsets) > self.max_length - len(self.template)).sum())
        if long:
            of = f"{long:,} of {len(store):,} {CALLED[split]} rows ({long / len(store):.1%})"
            say(f"--data.max_length {self.max_length}: cuts {of}")


def encode_fields(
    encode: Callable[[list[str]], list[list[int]]], rows: Sequence[Any], fields: Sequence[str]
) -> list[list[list[int]]]:
    """(rows, fields) token ids of the rows' texts; `encode` gives those of each text."""
    columns = [encode([row[name] for row in rows]) for name in fields]
    return [list(row) for row in zip(*columns, strict=True)]
