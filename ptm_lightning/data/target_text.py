"""TargetTextData: the data module of tasks that answer a text with another one, such as its summary."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.example_data import ExampleData, field_lengths
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.seq2seq import closed_frame, prompt_batch
from ptm_lightning.data.show import show_row
from ptm_lightning.data.sides import LayOutSides, Longest, Sides, SidesCollate
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import frame, raw
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.link import Link
from ptm_lightning.log import say


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
        return SidesCollate(store, self.frames, self.longest, self.hf_tokenizer.pad_token_id, evaluate, two_sided=True)

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
