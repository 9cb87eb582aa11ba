"""TargetTextData: the data module of tasks that answer a text with another one, such as its summary."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast

from ptm_lightning.data.answering import PREDICT_ROWS, pad_of, prompt_room
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.example_data import CALLED, ExampleData, Split, field_lengths
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.separator import Separator, separate
from ptm_lightning.data.seq2seq import closed_frame, prompt_batch
from ptm_lightning.data.show import show_row
from ptm_lightning.data.sides import INCOMPLETE, LayOutSides, Longest, Sides, SidesCollate, counted_facts
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import frame, meaning_special, raw
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.link import Link
from ptm_lightning.log import say


class TargetTextData(ExampleData, ABC):
    """Rows of two texts; the model reads the first and answers with the second.

    For an encoder-decoder these are its two sides. For a causal network they stand in one row: the source, a separator,
    and the target with its end.
    """

    predict_rows: ClassVar[int] = PREDICT_ROWS

    tokenizer_algorithm: Algorithm = "bpe"
    """What kind of tokenizer to train, on both sides; wordpiece would lose capital letters."""
    max_target_length: int = 128
    """Tokens of the longest target, special tokens included. For a causal network --data.max_length has them too."""
    prefix: str | None = None
    """What is put before each source. Default: what a pretrained T5 was trained with, else nothing."""

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What the task is called in the `task_specific_params` of a pretrained T5's config."""

    def used_separator(self) -> str:
        """What a causal network reads between source and target; "" for an encoder-decoder."""
        return ""

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what is put around the texts."""
        if stage == "predict" and self.causal:  # the same room for sources as in training
            known = self.known_side().get("max_length", self.max_target_length)
            self.max_target_length = min(self.max_target_length, known)
        super().setup(stage)
        if stage == "fit" and self.causal and (after := frame(self.hf_tokenizer)[1]):
            put = " ".join(self.hf_tokenizer.convert_ids_to_tokens(after))
            say(f"--data.tokenizer: it puts {put} behind a text, which nothing can follow; here it is left out")
        backbone = self.new_backbone if self.prefix is None else None
        if backbone and (others := other_purposes(backbone, self.purpose)):
            say(
                f"--model.backbone {backbone}: has a prefix for {', '.join(others)}, but none for {self.purpose}; "
                "none is put before a source unless you give --data.prefix"
            )

    def open_corpus(self) -> Corpus:
        """Opens the stores, which have counted what the model card must say, too."""
        corpus = super().open_corpus()
        stores: dict[str, Any] = {split: store for split in CALLED if (store := getattr(corpus, split)) is not None}
        return replace(corpus, provenance=corpus.provenance | counted_facts(stores))

    def reader(self) -> Sides:
        """Rows of two texts."""
        separator = self._separator()
        return Sides(self.fields, self.used_prefix(), separator.lead if separator else "")

    def used_prefix(self) -> str:
        """The prefix asked for, the trained model's, or the backbone's own."""
        return str(self.known_side().get("prefix", "")) if self.prefix is None else self.prefix

    def known_side(self) -> dict[str, Any]:
        """What the trained model, or the backbone, was trained to find around a source: prefix, separator and so on."""
        task = self._task
        if task is not None and task.link is not None:
            side: dict[str, Any] = task.link.target_side
            return side
        return backbone_side(task.backbone, self.purpose) if task is not None and task.backbone else {}

    def _separator(self) -> Separator | None:
        text = self.used_separator()
        return separate(raw(self.hf_tokenizer), text) if text else None

    def make_frame(self) -> Frame:
        """The special tokens of both sides together; each side's own are in `frames`."""
        tokenizer = self.hf_tokenizer
        if tokenizer.pad_token_id is None and not self.causal:
            raise UserError("--data.tokenizer: it has no padding token; take one that has, or --data.tokenizer train")
        self.frames = self.make_frames()
        target_too = f" and --data.max_target_length {self.max_target_length}" if self.causal else ""
        for name, room, around, beside in zip(
            ("max_length", "max_target_length"), self.longest, self.frames, (target_too, ""), strict=True
        ):
            if room < 1:
                given = f"--data.{name} {getattr(self, name)}"
                raise UserError(f"{given}: no room beside {len(around)} special tokens{beside}; give more")
        source, target = self.frames
        return Frame(source.before + source.after, target.before + target.after)

    def make_frames(self) -> tuple[Frame, Frame]:
        """What stands around a source and around a target, which has an end: the tokenizer's own special tokens.

        For a causal network, a separator ends a source.
        """
        tokenizer = self.hf_tokenizer
        before, after = map(tuple, frame(tokenizer))
        if (separator := self._separator()) is not None:
            return Frame(before, separator.ids), closed_frame(Frame((), ()), tokenizer)
        return Frame(before, after), closed_frame(target_frame(tokenizer), tokenizer)

    @property
    def longest(self) -> Longest:
        """Tokens of text of the longest row."""
        source, target = self.frames
        return self._max_source - len(source), self.max_target_length - len(target)

    @property
    def _max_source(self) -> int:
        return prompt_room(self.max_length, self.max_target_length, two_sided=not self.causal)

    @property
    def pad_id(self) -> int:
        """What fills rows."""
        return pad_of(self.hf_tokenizer, self.frames[1].after[-1])

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """A row for each example."""
        assert isinstance(store, ExampleStore)
        return LayOutSides(store, self.longest)

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Both sides, and in evaluation the rows as they were read."""
        return SidesCollate(store, self.frames, self.longest, self.pad_id, evaluate, two_sided=not self.causal)

    def decoder_ids(self) -> dict[str, int]:
        """Fields of the network's generation config that the target's language decides: how the decoder begins."""
        return {}

    def _make_link(self) -> Link:
        link = super()._make_link()
        side: dict[str, Any] = {
            "fields": list(self.fields),
            "purpose": self.purpose,
            "prefix": self.used_prefix(),
            "max_length": self.max_target_length,
            "last": self.frames[1].after[-1],
            "ids": self.decoder_ids(),
            "asked": 0 if self._predicts() else len(self.corpus.validation),
        }
        if separator := self.used_separator():
            ids = {"eos_token_id": side["last"], "pad_token_id": self.pad_id}
            side |= {"separator": separator, "before": self._max_source, "ids": ids}
            link = replace(link, provenance=link.provenance | {"separator": separator})
        return replace(link, max_length=max(self.max_length, self.max_target_length), target_side=side)

    # Texts to predict for

    def predict_inputs(self) -> Iterator[Text]:
        """What to predict for, in order: the texts given right here, then the sources' rows, with or without target."""
        return predict_texts(self.predict, self.text, self.columns, required=self.fields[:1])

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Sources."""
        around, longest, prefix = self.frames[0], self.longest[0], self.used_prefix()
        coded = self.coder.encode_batch_fast([prefix + text.text for text in texts], add_special_tokens=False)
        self.note_cut(sum(len(row) > longest for row in coded), len(texts))
        rows = [[*around.before, *row.ids[:longest], *around.after] for row in coded]
        return prompt_batch(rows, texts, self.pad_id)

    def make_coder(self) -> Tokenizer:
        """One that knows the special tokens of a prefix."""
        return meaning_special(super().make_coder(), self.used_prefix())

    # For people

    def show_row(self, batch: Batch, row: int) -> str:
        """Both sides, as tokens."""
        return show_row(batch, row, self.hf_tokenizer)

    def _say_what_is_cut(self, split: Split, store: ExampleStore) -> None:
        if count := store.counted[INCOMPLETE]:
            say(f"--data.{split}: {count:,} rows are left out, for {' or '.join(self.fields)} is empty in them")
        long = field_lengths(store, np.arange(len(store))) > self.longest
        flags = {"max_length": (self.max_length, "sources"), "max_target_length": (self.max_target_length, "targets")}
        for (name, (length, what)), cut in zip(flags.items(), long.sum(axis=0).tolist(), strict=True):
            if cut:
                of = f"{cut:,} of {len(store):,} {CALLED[split]} {what} ({cut / len(store):.1%})"
                say(f"--data.{name} {length}: cuts {of}")


def other_purposes(name: str, purpose: str) -> list[str]:
    """What a pretrained network has prefixes for, of the kind of a purpose that it has none for.

    Args:
        name: A folder or hub name.
        purpose: Such as translation_en_to_es.
    """
    known = _params_by_purpose(name)
    kind = purpose.partition("_")[0]
    return [] if purpose in known else [other for other in known if other.startswith(f"{kind}_")]


def backbone_side(name: str, purpose: str) -> dict[str, Any]:
    """What a pretrained network, a folder or a hub name, was trained to find around a source, in a link's words."""
    known = _params_by_purpose(name).get(purpose, {})
    words = {"prefix": "prefix", "separator": "separator", "max_new_tokens": "max_length"}
    return {ours: known[theirs] for theirs, ours in words.items() if theirs in known}


def _params_by_purpose(name: str) -> dict[str, Any]:
    """What a pretrained T5's config says of each of its tasks; nothing of other networks."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return getattr(config, "task_specific_params", None) or {}


def target_frame(tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The ids before and after a target, which some tokenizers frame otherwise than a source."""
    encoding = tokenizer(text_target="a").encodings[0]
    inside = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return Frame(tuple(encoding.ids[: inside[0]]), tuple(encoding.ids[inside[-1] + 1 :]))
