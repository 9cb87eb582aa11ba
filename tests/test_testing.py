"""Every built-in task keeps the contract, and planted faults break the very clause that is there for them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ptm_lightning.tasks.masked_lm import MaskedLM, MaskedLMData
from torch.nn import functional
from torch.utils.data import get_worker_info

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.module import TextData
from ptm_lightning.plugins import load_plugins, subclasses
from ptm_lightning.task import Task
from ptm_lightning.terms import Term, Terms
from ptm_lightning.testing import CLAUSES, Alternative, Case, Clause, check_task, targets_restore_the_text
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

load_plugins()
BUILT_IN = {name: cls for name, cls in subclasses(Task).items() if cls.__module__.startswith("ptm_lightning.tasks.")}
NAMED: dict[str, Clause] = {clause.__name__: clause for clause in (*CLAUSES, targets_restore_the_text)}


def words_stay_whole(case: Case) -> None:
    """All pieces of a word are targets, or none."""
    data = case.data()
    for batch in case.epoch(data):
        ids, index = batch["input_ids"].clone(), batch["target_index"]
        ids.view(-1)[index] = batch["targets"]
        target = torch.zeros(ids.numel(), dtype=torch.bool).index_fill(0, index, True).view_as(ids)
        for row, chosen in zip(ids, target, strict=True):
            tokens = data.hf_tokenizer.convert_ids_to_tokens(row.tolist())
            torn = [
                tokens[i : i + 2]
                for i in range(1, len(tokens) - 1)  # after the first special token, where a cut piece may begin
                if tokens[i + 1].startswith("##") and chosen[i] != chosen[i + 1]
            ]
            assert not torn, f"torn words: {torn}"


OF_A_TASK: dict[str, tuple[Clause, ...]] = {
    "MaskedLM": (targets_restore_the_text,),
    "ReplacedTokenDetection": (targets_restore_the_text,),
}
"""Clauses that hold for some objectives only."""


GENERATION: dict[str, Any] = {
    "max_new_tokens": 3,
    "min_new_tokens": 24,
    "num_beams": 3,
    "length_penalty": Alternative(-9.0, given={"num_beams": 6}),
    "no_repeat_ngram_size": 1,
    "temperature": 0.5,
    "top_p": 0.05,
    "validation_answers": 2,
    "head_learning_rate": 0.1,
    "frozen_layers": 1,
}
"""Other values of what all tasks have that answer with text."""

ANSWERS: dict[str, Any] = {
    "arguments": {"temperature": 2.0},  # the most likely answer of an untrained network is empty
    "data": {"max_target_length": 24, "tokenizer_algorithm": "wordpiece", "vocab_size": 120},
    "alternatives": GENERATION | {"prefix": "say: ", "architecture": "t5"},
}
"""Of tasks that answer a text with another one."""


NEEDS: dict[str, dict[str, Any]] = {
    "PermutationLM": {"data": {"tokenizer_algorithm": "wordpiece"}},  # the texts to predict for have its mask
    "SequenceClassification": {
        "alternatives": {
            "problem_type": "multi_label_classification",
            "class_weights": "balanced",
            "head_learning_rate": 0.1,
            "frozen_layers": 1,
        },
    },
    "QuestionAnswering": {
        "alternatives": {
            "misplaced": "refuse",
            "stride": 5,
            "max_answer_tokens": 1,
            "no_answer_threshold": 100.0,
            "f1_units": "characters",
            "head_learning_rate": 0.1,
            "frozen_layers": 1,
        },
    },
    "TokenClassification": {"alternatives": {"stride": 5, "head_learning_rate": 0.1, "frozen_layers": 1}},
    "CausalLM": {
        "arguments": {"max_new_tokens": 8},
        "alternatives": {
            "num_beams": Alternative(3, given={"temperature": 1.0}),
            "temperature": 1.0,
            "top_p": Alternative(0.05, given={"temperature": 2.0}),
            "architecture": "llama",
        },
    },
    "Dialogue": {
        "arguments": {"temperature": 2.0},
        "data": {"max_length": 80, "max_target_length": 24, "tokenizer_algorithm": "wordpiece", "vocab_size": 120},
        "alternatives": {
            **GENERATION,
            "min_new_tokens": Alternative(24, given={"learning_rate": 0.1}),  # it has learned to end at once
            "columns": {"messages": "turns"},
            "architecture": "llama",
            "max_length": 50,
        },
    },
    "Summarization": {
        **ANSWERS,
        "alternatives": ANSWERS["alternatives"] | {"separator": " In short:", "tokenizer_algorithm": "unigram"},
    },
    "Translation": {
        **ANSWERS,
        "alternatives": ANSWERS["alternatives"] | {"source_language": "fr", "target_language": "fr"},
    },
    "Mixture": {
        "data": {"parts": {"words": {"task": "MaskedLM", "masking": "word"}, "tokens": {"task": "MaskedLM"}}},
        "alternatives": {
            "parts": {"words": {"task": "MaskedLM", "masking": "span"}, "tokens": {"task": "MaskedLM"}},
            "tokenizer_algorithm": "unigram",
        },
    },
    "NextSentence": {"alternatives": {"short_share": 0.9, "sentences": "xx"}},  # refused where spaCy isn't installed
    "SentenceOrder": {"alternatives": {"short_share": 0.9, "sentences": "xx"}},
    "Denoising": {"alternatives": {"sentences": "xx"}},
    "SpanCorruption": {
        "data": {"predict": None, "text": ["the <extra_id_0> sees a <extra_id_1> .", "<extra_id_0> likes a dog"]},
        "alternatives": {"denoisers": [{"density": 0.3, "mean_span": 2, "mode": "R"}, {"mode": "S"}]},
    },
}
"""What the contract must be told of a task: arguments of `check_task`."""

VARIANTS: dict[str, dict[str, Any]] = {
    "Summarization, causal": {
        "arguments": {"temperature": 2.0, "architecture": "gpt2", "overrides": tiny("gpt2")},
        "data": ANSWERS["data"] | {"max_length": 80},
        "alternatives": {
            **NEEDS["Summarization"]["alternatives"],
            "min_new_tokens": Alternative(24, given={"learning_rate": 0.1}),
            "architecture": "llama",
            "max_length": 50,
        },
    },
}
"""The same of tasks that take networks of another kind, too."""


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        pytest.param(name, clause, id=f"{name}-{clause.__name__}")
        for name in sorted([*BUILT_IN, *VARIANTS])
        for clause in (*CLAUSES, *OF_A_TASK.get(name, ()))
    ],
)
def test_built_in(name: str, clause: Clause, tmp_path: Path) -> None:
    needs = VARIANTS.get(name, NEEDS.get(name, {}))
    if name == "QuestionAnswering":
        needs = needs | {"data": {"train": [_with_a_misplaced_answer(tmp_path)], "misplaced": "skip"}}
    check_task(BUILT_IN[name.partition(",")[0]], clauses=[clause], **needs)


def _with_a_misplaced_answer(folder: Path) -> str:
    """The usual rows; the answer of one of them isn't where it is said to be."""
    rows = [example(number) for number in range(61)]
    rows[7]["answers"]["answer_start"][0] -= 1
    path = folder / "misplaced.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_all_built_in_tasks_are_found() -> None:
    assert BUILT_IN["MaskedLM"] is MaskedLM


@pytest.mark.parametrize("architecture", ["roberta", "modernbert"])
@pytest.mark.parametrize("clause", ["resume_is_equal", "accumulation_is_equal", "export_is_equal", "loss_falls"])
def test_other_architectures(architecture: str, clause: str) -> None:
    check_task(MaskedLM, arguments={"architecture": architecture}, clauses=[NAMED[clause]])


@pytest.mark.parametrize(
    ("layout", "clause"),
    [
        ("packed", "targets_restore_the_text"),
        ("packed", "noise_ignores_the_batch"),
        ("packed", "accumulation_is_equal"),
        ("packed", "resume_is_equal"),
        ("blocks", "noise_ignores_the_batch"),
        ("blocks", "accumulation_is_equal"),
        ("blocks", "resume_is_equal"),
    ],
)
def test_other_layouts(layout: str, clause: str) -> None:
    check_task(MaskedLM, data={"layout": layout}, clauses=[NAMED[clause]])


LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-blocks": ("CausalLM", {"data": {"layout": "blocks"}}),
    "gpt-packed": ("CausalLM", {"data": {"layout": "packed"}}),
    "t5-blocks": ("SpanCorruption", {"data": {"layout": "blocks"}}),
    "bart-blocks": ("Denoising", {"data": {"layout": "blocks"}}),
    "roberta-blocks": (
        "MaskedLM",
        {"arguments": {"architecture": "roberta"}, "data": {"layout": "blocks", "tokenizer_algorithm": "bpe"}},
    ),
}
"""What presets have, or name, beside each task's default."""


@pytest.mark.parametrize("clause", ["noise_ignores_the_batch", "resume_is_equal"])
@pytest.mark.parametrize("preset", LAYOUTS)
def test_layouts_of_presets(preset: str, clause: str) -> None:
    name, changes = LAYOUTS[preset]
    needs = {key: value for key, value in NEEDS.get(name, {}).items() if key != "alternatives"}
    data = needs.get("data", {}) | changes["data"]
    check_task(BUILT_IN[name], **(needs | changes | {"data": data}), clauses=[NAMED[clause]])


@pytest.mark.parametrize("masking", ["word", "span", "ngram"])
def test_words_stay_whole(masking: str) -> None:
    check_task(
        MaskedLM, data={"masking": masking, "vocab_size": 90}, clauses=[words_stay_whole, targets_restore_the_text]
    )


def test_single_tokens_tear_words() -> None:
    with pytest.raises(AssertionError, match="MaskedLM breaks the clause words_stay_whole: torn words"):
        check_task(MaskedLM, data={"masking": "token", "vocab_size": 90}, clauses=[words_stay_whole])


# Doubles of MaskedLM, each with one fault in its batches. Their names keep them out of `list`.


@dataclass(frozen=True)
class _Faulty:
    """A collator with a fault."""

    right: MaskCollate
    fault: Callable[[MaskCollate, Pieces], Batch]

    def __call__(self, pieces: Pieces) -> Batch:
        return self.fault(self.right, pieces)


def double(fault: Callable[[MaskCollate, Pieces], Batch]) -> type[Task]:
    """MaskedLM on batches with a fault."""

    class _Data(MaskedLMData):
        def collator(self, store: Any, *, evaluate: bool) -> Callable[[Pieces], Batch]:
            return _Faulty(super().collator(store, evaluate=evaluate), fault)

    class _Double(MaskedLM):
        data_class: ClassVar[type[TextData]] = _Data

    return _Double


def shifted_target(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "targets": batch["targets"].roll(1)}


def special_token_masked(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    ids = batch["input_ids"].clone()
    targets = torch.cat([ids[0, :1], batch["targets"]])
    ids[0, 0] = right.mask_id
    index = torch.cat([torch.zeros(1, dtype=torch.long), batch["target_index"]])
    counts = batch["counts"] | {"mlm": len(index)}
    return {**batch, "input_ids": ids, "targets": targets, "target_index": index, "counts": counts}


def special_token_lost(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    batch["input_ids"][0, 0] = right.mask_id
    return batch


def noise_of_the_moment(right: MaskCollate, pieces: Pieces) -> Batch:
    return replace(right, seed=int(np.random.randint(2**31)))(pieces)


def noise_of_the_batch(right: MaskCollate, pieces: Pieces) -> Batch:
    return replace(right, seed=len(pieces.row))(pieces)


def noise_of_the_worker(right: MaskCollate, pieces: Pieces) -> Batch:
    worker = get_worker_info()
    return replace(right, seed=0 if worker is None else worker.id)(pieces)


def padding_counted(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "counts": batch["counts"] | {"tokens": batch["input_ids"].numel()}}


def padding_read(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    index = batch["target_index"].clone()
    index[-1] = batch["input_ids"].numel() - 1  # the last place of the shortest row
    return {**batch, "target_index": index}


def one_for_each_batch(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "counts": batch["counts"] | {"mlm": 1}}


class _Uncounted(MaskedLM):
    """A loss term under another name than its count."""

    def terms(self, batch: Batch) -> Terms:
        return {"other": super().terms(batch)["mlm"]}


class _Means(double(one_for_each_batch)):  # type: ignore[misc]
    """Means of micro-batches: their mean is not the mean over the step."""

    def terms(self, batch: Batch) -> Terms:
        logits = self.logits_at_targets(batch)
        return {"mlm": Term(functional.cross_entropy(logits, batch["targets"]), 1)}


class _Unlearnable(MaskedLM):
    """Other targets each time."""

    def terms(self, batch: Batch) -> Terms:
        targets = torch.randint(self.link.vocabulary, batch["targets"].shape)
        return super().terms({**batch, "targets": targets})


class _Remembers(MaskedLM):
    """A state that no checkpoint holds."""

    calls = 0

    def terms(self, batch: Batch) -> Terms:
        self.calls += self.training
        return {"mlm": replace(super().terms(batch)["mlm"], weight=1.0 + self.calls)}


class _Patched(MaskedLM):
    """A network that gives other logits than its weights say."""

    def configure_model(self) -> None:
        fresh = self.network is None
        super().configure_model()
        if fresh and self.network is not None:
            self.network.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: 2 * logits)


class _NeedsData(MaskedLM):
    """Not complete without its data module."""

    def tokenizer(self) -> Any:
        return self.trainer.datamodule.hf_tokenizer


class _DropsOne(MaskedLM):
    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        return super().predictions(batch)[1:]


class _TurnsRound(MaskedLM):
    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        return super().predictions(batch)[::-1]


class _Silent(MaskedLM):
    """Nothing is trained."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class _DeadArgument(MaskedLM):
    smoothing: float = 0.1
    """Is never read."""


class _DeadDataArgument(MaskedLM):
    class _Data(MaskedLMData):
        language: str | None = None
        """Is never read."""

    data_class: ClassVar[type[TextData]] = _Data


FAULTS = [
    (double(shifted_target), "targets_restore_the_text", "no text of the corpus"),
    (double(special_token_masked), "targets_restore_the_text", "a target is a special token"),
    (double(special_token_lost), "targets_restore_the_text", "special tokens around a text are changed"),
    (double(noise_of_the_moment), "noise_ignores_the_batch", "the same batches twice have different noise"),
    (double(noise_of_the_moment), "workers_give_equal_batches", "differs"),
    (double(noise_of_the_moment), "resume_is_equal", "other batches"),
    (double(noise_of_the_batch), "noise_ignores_the_batch", "rows differ in batches of 3 and of 7"),
    (double(noise_of_the_worker), "workers_give_equal_batches", "epoch: batch 1 differs"),
    (double(padding_counted), "batches_keep_the_schema", "tokens"),
    (_Uncounted, "batches_keep_the_schema", "the loss term other is not counted"),
    (double(padding_read), "batches_keep_the_schema", "the loss reads padding"),
    (_Means, "accumulation_is_equal", "three micro-batches give a gradient that is .*% off"),
    (_Unlearnable, "loss_falls", "it only comes to"),
    (_Remembers, "resume_is_equal", "losses"),
    (_Patched, "export_is_equal", "other logits"),
    (_NeedsData, "loads_without_data", "it raises"),
    (_DropsOne, "predictions_are_complete", "7 inputs give 3 predictions"),
    (_TurnsRound, "predictions_are_complete", "7 inputs .* give 7 predictions"),
    (_Silent, "fits", "the weights are as they were"),
    (_DeadArgument, "every_argument_counts", "task argument smoothing = 0.05 changes nothing and is not refused"),
    (_DeadDataArgument, "every_argument_counts", "no other value is known for the data argument language"),
]


@pytest.mark.parametrize(
    ("task", "clause", "message"),
    [pytest.param(*fault, id=f"{i}-{fault[1]}") for i, fault in enumerate(FAULTS)],
)
def test_planted_fault(task: type[Task], clause: str, message: str) -> None:
    with pytest.raises(AssertionError, match=f"{task.__name__} breaks the clause {clause}: .*{message}"):
        check_task(task, clauses=[NAMED[clause]])


def test_every_clause_has_its_fault() -> None:
    assert {clause for _, clause, _ in FAULTS} == set(NAMED)


def test_named_alternative_is_tried() -> None:
    message = "data argument language = 'de' changes nothing and is not refused"
    with pytest.raises(AssertionError, match=message):
        check_task(
            _DeadDataArgument,
            alternatives={"language": Alternative("de", given={"max_length": 24})},
            clauses=[NAMED["every_argument_counts"]],
        )


def test_alternative_without_an_argument() -> None:
    with pytest.raises(AssertionError, match=r"no argument: \[.langauge.\]"):
        check_task(MaskedLM, alternatives={"langauge": "de"}, clauses=[NAMED["every_argument_counts"]])


def test_threads_and_random_state_are_left_alone() -> None:
    before = torch.get_num_threads(), torch.get_rng_state().tolist()
    check_task(MaskedLM, clauses=[NAMED["fits"]])
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before
