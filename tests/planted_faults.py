"""Faults to plant, each of one thing in a collator, a layout or a network, and what `check` calls them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ptm_lightning.tasks import replaced_token
from ptm_lightning.tasks.causal_lm import CausalLMData, NextTokenCollate
from ptm_lightning.tasks.denoising import InfillCollate
from ptm_lightning.tasks.permutation_lm import PermutationCollate
from ptm_lightning.tasks.replaced_token import ReplaceCollate, ReplacedTokenDetection

from ptm_lightning.data import masked
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.infilling import Infilling
from ptm_lightning.data.layout import Frame, Pieces, Stream
from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.pair_module import PairCollate
from ptm_lightning.data.pairs import LayOutPairs
from ptm_lightning.data.span_corruption import Denoiser, SpanCollate

Fault = tuple[Any, str, Callable[..., Any]]
"""A class or module, the name of a method or function, and what stands in its place."""


def given(collate: type, change: Callable[[Any, Any], None]) -> Fault:
    """A fault of the batches that a collator gives."""
    right: Any = collate.__dict__["__call__"]

    def faulty(self: Any, pieces: Pieces) -> Batch:
        batch: Batch = right(self, pieces)
        change(self, batch)
        return batch

    return collate, "__call__", faulty


def set_to(collate: type, method: str, **settings: Any) -> Fault:
    """A fault of a method that takes other settings than those that were asked for."""
    right: Any = collate.__dict__[method]

    def faulty(self: Any, *arguments: Any) -> Any:
        return right(dataclasses.replace(self, **settings), *arguments)

    return collate, method, faulty


def mask_the_first_token(self: MaskCollate, batch: Batch) -> None:
    places = torch.arange(0, batch["input_ids"].numel(), batch["input_ids"].shape[1])
    batch["targets"] = torch.cat([batch["input_ids"].view(-1)[places], batch["targets"]])
    batch["target_index"] = torch.cat([places, batch["target_index"]])


def draw_special_tokens(self: MaskCollate, batch: Batch) -> None:
    batch["input_ids"].view(-1)[batch["target_index"][::9]] = self.frame.after[0]


def shift_the_targets(self: Any, batch: Batch) -> None:
    batch["targets"] = batch["targets"].roll(1)


def keep_all(self: MaskCollate, batch: Batch) -> None:
    batch["input_ids"].view(-1)[batch["target_index"]] = batch["targets"]


def mask_the_rest(self: MaskCollate, batch: Batch) -> None:
    at = batch["target_index"][batch["input_ids"].view(-1)[batch["target_index"]] == batch["targets"]]
    batch["input_ids"].view(-1)[at] = self.mask_id


def drop_half(self: Any, batch: Batch) -> None:
    half = slice(0, len(batch["targets"]) // 2)
    batch["target_index"], batch["targets"] = batch["target_index"][half], batch["targets"][half]


def flip_the_labels(self: PairCollate, batch: Batch) -> None:
    batch["labels"] = 1 - batch["labels"]


def call_all_next(self: PairCollate, batch: Batch) -> None:
    batch["labels"][:] = 0


def from_the_same_document(self: LayOutPairs, segments: Any, rows: Any, *_: Any) -> Any:
    """Negatives that are the beginning of their own document."""
    begin = self.store.offsets[np.searchsorted(self.store.offsets, segments.start[rows, 0], side="right") - 1]
    segments.length[rows, 1] = np.maximum(1, segments.start[rows, 0] - begin)
    segments.start[rows, 1] = begin
    return np.ones(len(segments.start), dtype=np.bool_)


def reverse_the_sentinels(self: SpanCollate, batch: Batch) -> None:
    """On both sides, so that the text can still be rebuilt."""
    for name in ("input_ids", "targets"):
        ids = batch[name].clone()  # type: ignore[literal-required]
        for old, new in zip(self.sentinels[:9], self.sentinels[8::-1], strict=True):
            batch[name][ids == old] = int(new)  # type: ignore[literal-required]


def hide_the_first_token(self: Any, batch: Batch) -> None:
    batch["input_ids"][:, 0] = self.sentinels[0] if isinstance(self, SpanCollate) else self.mask_id


def show_the_targets(self: Any, batch: Batch) -> None:
    """The decoder reads what it shall say."""
    batch["decoder_input_ids"].view(-1)[batch["target_index"]] = batch["targets"]


def take_the_first_mode(self: SpanCollate, batch: Batch) -> None:
    batch["input_ids"][:, len(self.frame.before)] = int(self.modes[0])


RIGHT_INFILLING = InfillCollate.infilling


def tear_a_sentence(self: InfillCollate, text: Any) -> Infilling:
    plan = RIGHT_INFILLING(self, text)
    return plan._replace(order=np.concatenate([plan.order[[1, 0]], plan.order[2:]]))


class EachPiece:
    """Takes each piece of a word for a word."""

    def starts(self, ids: Any) -> Any:
        return np.ones(len(ids), dtype=np.bool_)


def drop_all(self: MaskCollate, batch: Batch) -> None:
    batch["target_index"], batch["targets"] = batch["target_index"][:0], batch["targets"][:0]


def take_one_segment(self: PairCollate, batch: Batch) -> None:
    batch["token_type_ids"][:] = 0


def keep_all_short(self: LayOutPairs, draw: Any, start: Any) -> Any:
    return np.full(len(start), 4)


def leave_out_the_ends(self: CausalLMData, store: Any, *, evaluate: bool) -> Any:
    return self.lay_out_as("rows") if evaluate else Stream(self.max_length, Frame((), ()))


def end_each_piece(self: CausalLMData, store: Any, *, evaluate: bool) -> Any:
    return self.lay_out_as("rows")


RIGHT_RUN = ReplacedTokenDetection._run_both


def call_all_replaced(self: Any, batch: Batch) -> Any:
    guesses, ids, replaced, logits = RIGHT_RUN(self, batch)
    replaced.view(-1)[batch["target_index"]] = True
    return guesses, ids, replaced, logits


def replace_beside_the_targets(self: Any, batch: Batch) -> Any:
    guesses, ids, replaced, logits = RIGHT_RUN(self, batch)
    return guesses, ids.roll(1, dims=1), replaced, logits


def take_the_best(logits: torch.Tensor, chances: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.argmax(dim=-1)


def take_a_special_token(logits: torch.Tensor, chances: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.full((len(logits),), 2)


def take_the_first_draw(self: ReplaceCollate, batch: Batch) -> None:
    batch["chances"][:] = 0


MODES = '--data.denoisers=[{"mode": "R", "density": 0.2, "mean_span": 3}, {"mode": "S", "density": 0.3}]'
NOT_THE_TEXT = "targets that are not the text"
SPECIAL = "special tokens among the targets, or drawn"
CHANGED = "rows whose special tokens are changed"
LABEL = "pairs whose label is not true"
TYPES = "pairs whose token types don't tell them apart"
LONGER = "--data.max_length=64\n--data.batch_tokens=2048"
SHORT = "rows that could be longer"
FAULTS: dict[str, list[tuple[str, Fault, str]]] = {
    "MaskedLM": [
        (SPECIAL, given(MaskCollate, mask_the_first_token), ""),
        (SPECIAL, given(MaskCollate, draw_special_tokens), ""),
        (NOT_THE_TEXT, given(MaskCollate, shift_the_targets), ""),
        ("targets that become the mask token", given(MaskCollate, keep_all), ""),
        ("tokens changed that are no targets", given(MaskCollate, drop_half), ""),
        ("targets among tokens", set_to(MaskCollate, "noised", rate=0.2), ""),
        ("words or spans torn", set_to(MaskCollate, "noised", words=None), "--data.masking=word"),
        ("targets kept as they are", given(MaskCollate, mask_the_rest), ""),
        ("mean words of an n-gram", (masked, "NGRAM_LENGTHS", np.array([1.0, 0, 0])), "--data.masking=ngram"),
        ("mean words of a span", (masked, "SPAN_LENGTHS", np.ones(10)), "--data.masking=span"),
    ],
    "ReplacedTokenDetection": [
        ("draws that are not from the guesses", (replaced_token, "sample_tokens", take_the_best), ""),
        ("targets replaced by special tokens", (replaced_token, "sample_tokens", take_a_special_token), ""),
        ("chances that decide the draws", given(ReplaceCollate, take_the_first_draw), ""),
        ("labels that are not what was replaced", (ReplacedTokenDetection, "_run_both", call_all_replaced), ""),
        ("tokens replaced that are no targets", (ReplacedTokenDetection, "_run_both", replace_beside_the_targets), ""),
    ],
    "NextSentence": [
        (LABEL, (LayOutPairs, "_replace_seconds", from_the_same_document), ""),
        (LABEL, given(PairCollate, flip_the_labels), ""),
        ("pairs that are '1: of another document'", given(PairCollate, call_all_next), ""),
        (TYPES, given(PairCollate, take_one_segment), ""),
        (SHORT, (LayOutPairs, "_targets", keep_all_short), LONGER),
    ],
    "SentenceOrder": [
        (LABEL, given(PairCollate, flip_the_labels), ""),
        (TYPES, given(PairCollate, take_one_segment), ""),
        (SHORT, (LayOutPairs, "_targets", keep_all_short), LONGER),
    ],
    "CausalLM": [
        ("targets that are not the next token", given(NextTokenCollate, shift_the_targets), ""),
        (
            "documents whose end is not said",
            (CausalLMData, "rows_maker", leave_out_the_ends),
            "--data.layout=blocks\n--data.split_text=line",
        ),
        ("ends that are said where the document goes on", (CausalLMData, "rows_maker", end_each_piece), ""),
    ],
    "PermutationLM": [
        ("targets among tokens", set_to(PermutationCollate, "__call__", one_in=4), ""),
        ("targets that stand together", set_to(PermutationCollate, "__call__", longest=1), ""),
        (NOT_THE_TEXT, given(PermutationCollate, shift_the_targets), ""),
    ],
    "SpanCorruption": [
        (CHANGED, given(SpanCollate, hide_the_first_token), ""),
        ("rows whose sides don't rebuild the text", given(SpanCollate, shift_the_targets), ""),
        ("rows whose sentinels are not in order, once each", given(SpanCollate, reverse_the_sentinels), ""),
        ("decoder inputs not the targets one place later", given(SpanCollate, show_the_targets), ""),
        ("rows without the mode of their noise", given(SpanCollate, take_the_first_mode), MODES),
        ("noise among tokens", set_to(SpanCollate, "__call__", kinds=(Denoiser(0.3, 3.0),)), ""),
        ("mean length of a span, in tokens", set_to(SpanCollate, "__call__", kinds=(Denoiser(0.15, 1.0),)), ""),
    ],
    "Denoising": [
        (CHANGED, given(InfillCollate, hide_the_first_token), ""),
        (NOT_THE_TEXT, given(InfillCollate, shift_the_targets), ""),
        ("words hidden, rounded up in each row", set_to(InfillCollate, "infilling", rate=0.5), ""),
        ("words behind a mask that hides any", set_to(InfillCollate, "infilling", mean_span=1.5), ""),
        ("masks that hide nothing", set_to(InfillCollate, "infilling", mean_span=1.5), ""),
        ("rows whose sentences are in another order", set_to(InfillCollate, "infilling", sentence_begins=None), ""),
        ("sentences torn", (InfillCollate, "infilling", tear_a_sentence), ""),
        ("words torn", set_to(InfillCollate, "infilling", words=EachPiece()), ""),
        ("inputs that are not the text, masks aside", set_to(InfillCollate, "__call__", seed=1), ""),
    ],
}
