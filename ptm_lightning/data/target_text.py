"""TargetTextData: the data module of tasks that answer a text with another one, such as its summary."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.example_data import ExampleData, encode_fields, example_at, field_lengths, single_pieces
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.seq2seq import Ragged, closed_frame, prompt_batch, seq2seq_batch
from ptm_lightning.data.show import show_row
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import frame, raw
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.link import Link
from ptm_lightning.log import say
from ptm_lightning.metrics.references import references_of

TERM = "target_text"
Longest = tuple[int, int]
"""Tokens of the longest source and of the longest target, without special tokens."""


class Sides:
    """Rows of two texts: a source, which gets a prefix, and a target; rows that lack one of them are left out.

    A list of targets are several right answers; the first one is learned.
    """

    def __init__(self, fields: tuple[str, ...], prefix: str) -> None:
        self.fields = self.together = fields
        self.prefix = prefix
        self.key = ["sides", prefix]
        self.incomplete: dict[str, int] = {}
        """Rows that are left out, by the flag of their source."""
        self.references: dict[bool, set[int]] = {False: set(), True: set()}
        """How many right answers training rows and evaluation rows have."""

    def take(self, row: Row, where: str) -> None:
        """Counts the row if it is left out, and else its right answers."""
        self._count(row, where, evaluated=False)

    def check(self, row: Row, where: str) -> None:
        """The same of an evaluation row."""
        self._count(row, where, evaluated=True)

    def _count(self, row: Row, where: str, *, evaluated: bool) -> None:
        if self._complete(row):
            self.references[evaluated].add(len(references_of(row[self.fields[1]])))
        else:
            flag = where.partition(":")[0]
            self.incomplete[flag] = self.incomplete.get(flag, 0) + 1

    def stratum(self, row: Row) -> int:
        """All rows are alike."""
        return 0

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """Token ids of both sides; none of a row that is left out."""
        source, target = self.fields

        def encode(rows: Sequence[Row]) -> Iterable[Encoded]:
            prefixed = [
                {source: self.prefix + as_text(row[source]), target: references_of(row[target])[0]} for row in rows
            ]
            both = zip(rows, encode_fields(tokenizer, prefixed, self.fields), strict=True)
            return (Encoded(ids if self._complete(row) else [[], []], {}) for row, ids in both)

        return encode

    def facts(self) -> dict[str, Any]:
        """What is put before each source, how many rows are left out, and how many right answers the others have."""
        counts = self.references[True] or self.references[False]  # these, where evaluation rows are held out
        references = [] if counts == {1} else sorted(counts)
        facts = {"prefix": self.prefix, "incomplete": self.incomplete, "references": references}
        return {name: value for name, value in facts.items() if value}

    def _complete(self, row: Row) -> bool:
        source, target = self.fields
        return bool(as_text(row[source]).strip() and references_of(row[target])[0].strip())


def kept_lengths(store: ExampleStore, examples: Ints, longest: Longest) -> Ints:
    """(R, 2) tokens of each side that are kept."""
    return np.minimum(field_lengths(store, examples), longest)


@dataclass(frozen=True)
class LayOutSides:
    """A row for each example, each side cut to its own length."""

    store: ExampleStore
    longest: Longest

    def __call__(self, start: Ints, length: Ints, draw: Ints) -> Pieces:
        """One piece each: it begins where the example does, and is as long as what is kept of both sides."""
        kept = kept_lengths(self.store, example_at(self.store, start), self.longest)
        return single_pieces(start, kept.sum(axis=1), draw)


@dataclass(frozen=True)
class SidesCollate:
    """Examples to a batch for an encoder-decoder."""

    store: ExampleStore
    frames: tuple[Frame, Frame]
    """Special tokens around a source, and around a target."""
    longest: Longest
    pad_id: int
    evaluate: bool
    """The rows come along as they were read."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows."""
        examples = example_at(self.store, pieces.start)
        kept = kept_lengths(self.store, examples, self.longest)
        source, target = (self._framed(examples * 2 + side, kept[:, side], self.frames[side]) for side in range(2))
        counts = {TERM: len(target.ids), "tokens": len(source.ids) + len(target.ids)}
        batch = seq2seq_batch(source, target, pad_id=self.pad_id, counts=counts)
        batch["examples"] = torch.from_numpy(examples)
        if self.evaluate:
            batch["rows"] = list(self.store.rows(examples.tolist()))
        return batch

    def _framed(self, fields: Ints, lengths: Ints, frame: Frame) -> Ragged:
        starts = self.store.field_offsets[fields]
        texts = [self.store.tokens[begin : begin + size] for begin, size in zip(starts, lengths, strict=True)]
        ids = [np.array([*frame.before, *text, *frame.after], dtype=np.int64) for text in texts]
        return Ragged(np.concatenate(ids), np.repeat(np.arange(len(ids)), [len(row) for row in ids]))


class TargetTextData(ExampleData, ABC):
    """Rows of two texts; the model reads the first and answers with the second."""

    tokenizer_algorithm: Algorithm = "bpe"
    """What kind of tokenizer to train, on both sides; wordpiece would lose capital letters."""
    max_target_length: int = 128
    """Tokens of the longest target, special tokens included; --data.max_length is the source's."""
    prefix: str | None = None
    """What is put before each source. Default: what a pretrained T5 was trained with, else nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cut = self._asked = 0

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What the task is called in the `task_specific_params` of a pretrained T5's config."""

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what is left out."""
        super().setup(stage)
        if stage == "fit":
            for flag, count in self.corpus.provenance.get("incomplete", {}).items():
                say(f"{flag}: {count:,} rows are left out, for {' or '.join(self.fields)} is empty in them")

    def reader(self) -> Sides:
        """Rows of two texts."""
        return Sides(self.fields, self.used_prefix())

    def used_prefix(self) -> str:
        """The prefix asked for, the trained model's, or the backbone's own."""
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        if self.prefix is not None or task is None:
            return self.prefix or ""
        if task.link is not None:
            return str(task.link.target_side.get("prefix", ""))
        return backbone_prefix(task.backbone, self.purpose) if task.backbone else ""

    def make_frame(self) -> Frame:
        """The special tokens of both sides together; each side's own are in `frames`."""
        tokenizer = self.hf_tokenizer
        if tokenizer.pad_token_id is None:
            raise UserError("--data.tokenizer: it has no padding token; take one that has, or --data.tokenizer train")
        self.frames = self.make_frames()
        lengths = {"max_length": self.max_length, "max_target_length": self.max_target_length}
        for (name, length), around in zip(lengths.items(), self.frames, strict=True):
            if length <= len(around):
                raise UserError(f"--data.{name} {length}: no room beside {len(around)} special tokens; give more")
        source, target = self.frames
        return Frame(source.before + source.after, target.before + target.after)

    def make_frames(self) -> tuple[Frame, Frame]:
        """The special tokens around a source and around a target, which has an end: the tokenizer's own."""
        tokenizer = self.hf_tokenizer
        return Frame(*map(tuple, frame(tokenizer))), closed_frame(target_frame(tokenizer), tokenizer)

    @property
    def longest(self) -> Longest:
        """Tokens of text of the longest row."""
        source, target = self.frames
        return self.max_length - len(source), self.max_target_length - len(target)

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """A row for each example."""
        assert isinstance(store, ExampleStore)
        return LayOutSides(store, self.longest)

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Both sides, and in evaluation the rows as they were read."""
        return SidesCollate(store, self.frames, self.longest, self.hf_tokenizer.pad_token_id, evaluate)

    def decoder_ids(self) -> dict[str, int]:
        """Fields of the network's generation config that the target's language decides: how the decoder begins."""
        return {}

    def _make_link(self) -> Link:
        side = {
            "fields": list(self.fields),
            "purpose": self.purpose,
            "prefix": self.used_prefix(),
            "max_length": self.max_target_length,
            "last": self.frames[1].after[-1],
            "ids": self.decoder_ids(),
            "asked": 0 if self._predicts() else len(self.corpus.validation),
        }
        return replace(super()._make_link(), max_length=max(self.max_length, self.max_target_length), target_side=side)

    # Texts to predict for

    def predict_inputs(self) -> Iterator[Text]:
        """What to predict for, in order: the texts given right here, then the sources' rows, with or without target."""
        source, target = self.fields
        columns = {ours: theirs for ours, theirs in (self.columns or {}).items() if ours != target}
        return predict_texts(self.predict, self.text, columns, required=(source,))

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Sources."""
        around, longest, prefix = self.frames[0], self.longest[0], self.used_prefix()
        coded = raw(self.hf_tokenizer).encode_batch_fast(
            [prefix + text.text for text in texts], add_special_tokens=False
        )
        self._cut += sum(len(row) > longest for row in coded)
        self._asked += len(texts)
        rows = [[*around.before, *row.ids[:longest], *around.after] for row in coded]
        return prompt_batch(rows, texts, self.hf_tokenizer.pad_token_id)

    def teardown(self, stage: str) -> None:
        """Says what was cut of the texts to predict for."""
        if self._cut:
            say(f"--data.max_length {self.max_length}: cuts {self._cut:,} of {self._asked:,} texts to predict for")
        self._cut = self._asked = 0

    # For people

    def show_row(self, batch: Batch, row: int) -> str:
        """Both sides, as tokens."""
        return show_row(batch, row, self.hf_tokenizer)

    def _say_what_is_cut(self) -> None:
        store = self.corpus.train
        assert isinstance(store, ExampleStore)
        long = field_lengths(store, np.arange(len(store))) > self.longest
        flags = {"max_length": (self.max_length, "sources"), "max_target_length": (self.max_target_length, "targets")}
        for (name, (length, what)), cut in zip(flags.items(), long.sum(axis=0).tolist(), strict=True):
            if cut:
                say(f"--data.{name} {length}: cuts {cut:,} of {len(store):,} {what} ({cut / len(store):.1%})")


def backbone_prefix(name: str, purpose: str) -> str:
    """What a pretrained network, a folder or a hub name, was trained to find before a source; "" without it."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    known: dict[str, dict[str, Any]] = getattr(config, "task_specific_params", None) or {}
    return str(known.get(purpose, {}).get("prefix", ""))


def target_frame(tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The ids before and after a target, which some tokenizers frame otherwise than a source."""
    encoding = tokenizer(text_target="a").encodings[0]
    inside = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return Frame(tuple(encoding.ids[: inside[0]]), tuple(encoding.ids[inside[-1] + 1 :]))
