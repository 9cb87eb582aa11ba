"""`check` names planted faults in the right words: each breaks one thing in a collator, a layout or a network."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from check_run import chinese, failed, run
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
from ptm_lightning.data.words import WordTable
from ptm_lightning.models import inputs
from ptm_lightning.testing_case import tiny

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


@pytest.mark.parametrize(("task", "said", "fault", "flag"), [(task, *row) for task in FAULTS for row in FAULTS[task]])
def test_faults_are_named(
    task: str,
    said: str,
    fault: Fault,
    flag: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(*fault)
    assert run(corpus, *flag.split("\n" if flag else None), task=task) == 1
    out = capsys.readouterr().out
    assert said in failed(out)
    assert re.search(r"place \d", out) is None


@pytest.mark.parametrize(
    ("task", "said", "flags"),
    [("MaskedLM", "words or spans torn", ["--data.masking=word"]), ("Denoising", "words torn", [])],
)
@pytest.mark.parametrize(
    ("language", "algorithm"),
    [("english", "wordpiece"), ("english", "bpe"), ("english", "unigram"), ("chinese", "bpe"), ("chinese", "unigram")],
)
def test_a_table_of_torn_words_is_named(
    task: str,
    said: str,
    flags: list[str],
    language: str,
    algorithm: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    text = corpus
    if language == "chinese":
        text = tmp_path / "chinese.txt"
        text.write_text("\n\n".join(chinese(number) for number in range(400)), encoding="utf-8")
    monkeypatch.setattr(WordTable, "starts", EachPiece.starts)
    assert run(text, *flags, f"--data.tokenizer_algorithm={algorithm}", task=task) == 1
    assert said in failed(capsys.readouterr().out)


def test_batches_without_targets_have_nothing_to_count(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(*given(MaskCollate, drop_all))
    assert run(corpus) == 1
    out = capsys.readouterr().out
    assert {"targets that become the mask token", NOT_THE_TEXT, "words or spans torn"} <= set(failed(out))
    assert "nothing to count" in out


def test_rows_without_place_for_text_are_refused(corpus: Path, capsys: pytest.CaptureFixture[str]):
    assert run(corpus, "--data.max_length=2") == 2
    assert "--data.max_length 2: a row takes 2 special tokens and needs two of text" in capsys.readouterr().err


def test_negatives_of_the_same_document_are_told(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(LayOutPairs, "_replace_seconds", from_the_same_document)
    assert run(corpus, task="NextSentence") == 1
    assert "-> 1: of another document, but the second comes earlier in the same document" in capsys.readouterr().out


def test_rows_that_are_filled_too_often_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = tmp_path / "chinese.txt"
    text.write_text("\n\n".join(chinese(number) for number in range(400)), encoding="utf-8")
    monkeypatch.setattr(*set_to(LayOutPairs, "__call__", short_share=0.0))
    assert run(text, "--data.short_share=0.5", task="SentenceOrder") == 1
    assert failed(capsys.readouterr().out) == [SHORT]


LEAK = "predictions that see what they may not"


def test_a_network_without_a_causal_mask_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("ptm_lightning.tasks.causal_lm.refuse_sight", lambda network: None)
    size = f"--model.overrides={json.dumps(tiny('roberta'))}"
    assert run(corpus, "--model.architecture=roberta", size, task="CausalLM") == 1
    assert failed(capsys.readouterr().out) == [LEAK]


@pytest.mark.parametrize("task", ["MaskedLM", "CausalLM", "ReplacedTokenDetection"])
def test_a_leak_between_documents_is_named(
    task: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = inputs.attention_mask

    def open_mask(config: Any, document_ids: torch.Tensor, dtype: torch.dtype, **kwargs: Any) -> Any:
        return right(config, (document_ids > 0).long(), dtype, **kwargs)

    monkeypatch.setattr(inputs, "attention_mask", open_mask)
    assert run(corpus, "--data.layout=packed", "--data.split_text=line", task=task) == 1
    out = capsys.readouterr().out
    assert failed(out) == [LEAK]
    assert "' moves by" in out


@pytest.mark.parametrize("name", ["generator", "network"])
def test_a_leak_in_either_of_two_networks_is_named(
    name: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = ReplacedTokenDetection.configure_model

    def open_mask(_: Any, args: Any, kwargs: Any) -> Any:
        return args, kwargs | {"attention_mask": torch.ones_like(kwargs["attention_mask"][:, 0, 0])}

    def faulty(self: ReplacedTokenDetection) -> None:
        right(self)
        getattr(self, name).register_forward_pre_hook(open_mask, with_kwargs=True)

    monkeypatch.setattr(ReplacedTokenDetection, "configure_model", faulty)
    flags = ["--data.layout=packed", "--data.split_text=line"]
    assert run(corpus, *flags, task="ReplacedTokenDetection") == 1
    assert failed(capsys.readouterr().out) == [LEAK]


def test_a_decoder_that_sees_its_targets_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        "transformers.models.t5.modeling_t5.create_causal_mask", lambda *_, **__: torch.zeros(1, 1, 1, 1)
    )
    assert run(corpus, task="SpanCorruption") == 1
    assert failed(capsys.readouterr().out) == [LEAK]
