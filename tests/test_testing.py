"""Every built-in task keeps the contract."""

from pathlib import Path
from typing import Any

import pytest
import torch
from named_clauses import NAMED
from ptm_lightning.tasks.masked_lm import MaskedLM
from row_files import write

from ptm_lightning.finetuning import FineTuning
from ptm_lightning.plugins import load_plugins, subclasses
from ptm_lightning.task import Task
from ptm_lightning.testing import CLAUSES, Alternative, Case, Clause, check_task, targets_restore_the_text
from ptm_lightning.testing_arguments import every_argument_counts, refused_arguments
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

load_plugins()
BUILT_IN = {name: cls for name, cls in subclasses(Task).items() if cls.__module__.startswith("ptm_lightning.tasks.")}


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


def generation(architecture: str, other: str) -> dict[str, Any]:
    """Other values of what all tasks have that answer with text."""
    with_a_head = {"overrides": tiny(architecture) | {"tie_word_embeddings": False}}
    return {
        "max_new_tokens": 3,
        "min_new_tokens": 24,
        "num_beams": 3,
        "length_penalty": Alternative(-9.0, given={"num_beams": 6}),
        "no_repeat_ngram_size": 1,
        "temperature": 0.5,
        "top_p": 0.05,
        "validation_answers": 2,
        "head_learning_rate": Alternative(0.1, given=with_a_head),
        "frozen_layers": Alternative(1, given=with_a_head),
        "architecture": Alternative(other, given={"overrides": None}),
    }


ANSWERS: dict[str, Any] = {
    "arguments": {"temperature": 2.0},  # the most likely answer of an untrained network is empty
    "data": {"max_target_length": 24, "tokenizer_algorithm": "wordpiece", "vocab_size": 120},
    "alternatives": generation("bart", "t5") | {"prefix": "say: "},
}
"""Of tasks that answer a text with another one."""


NEEDS: dict[str, dict[str, Any]] = {
    "PermutationLM": {"data": {"tokenizer_algorithm": "wordpiece"}},  # the texts to predict for have its mask
    "SequenceClassification": {
        "alternatives": {
            "problem_type": Alternative("regression", given={"columns": {"label": "lines"}}),
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
            **generation("gpt2", "llama"),
            "min_new_tokens": Alternative(24, given={"learning_rate": 0.1}),  # it has learned to end at once
            "columns": {"messages": "turns"},
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
            **generation("gpt2", "llama"),
            "min_new_tokens": Alternative(24, given={"learning_rate": 0.1}),
            "max_length": 50,
        },
    },
}
"""The same of tasks that take networks of another kind, too."""


REFUSED: dict[str, set[str]] = {
    "QuestionAnswering": {"misplaced"},  # to refuse rows is what its other value is for
    "Summarization": {"separator"},  # it is for causal networks
}
"""Arguments of downstream tasks that are never taken, whatever their value."""


def only_these_are_refused(name: str) -> Clause:
    """`every_argument_counts`, which leaves no other argument unseen at work."""

    def every_argument_is_seen_at_work(case: Case) -> None:
        refused = refused_arguments(case)
        assert refused == REFUSED.get(name, set()), f"all values are refused of {sorted(refused)}"

    return every_argument_is_seen_at_work


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        pytest.param(name, clause, id=f"{name}-{clause.__name__}")
        for name in sorted([*BUILT_IN, *VARIANTS])
        for clause in (*CLAUSES, *OF_A_TASK.get(name, ()))
    ],
)
def test_built_in(name: str, clause: Clause, tmp_path: Path) -> None:
    needs, task = VARIANTS.get(name, NEEDS.get(name, {})), BUILT_IN[name.partition(",")[0]]
    if name == "QuestionAnswering":
        needs = needs | {"data": {"train": [_with_a_misplaced_answer(tmp_path)], "misplaced": "skip"}}
    if name == "TokenClassification":
        needs = {"alternatives": needs["alternatives"] | {"columns": _with_more_words(tmp_path)}}
    if clause is every_argument_counts and issubclass(task, FineTuning):
        clause = only_these_are_refused(name)
    check_task(task, clauses=[clause], **needs)


def _with_a_misplaced_answer(folder: Path) -> str:
    """The usual rows; the answer of one of them isn't where it is said to be."""
    rows = [example(number) for number in range(61)]
    rows[7]["answers"]["answer_start"][0] -= 1
    return write(folder / "misplaced.jsonl", rows)


def _with_more_words(folder: Path) -> Alternative:
    """The column of words is another one."""
    rows = [example(number) for number in range(61)]
    for row in rows:
        row["words"] = [f"{token}s" for token in row["tokens"]]
    source = [write(folder / "words.jsonl", rows)]
    return Alternative({"tokens": "words"}, given=dict.fromkeys(("train", "validation", "test"), source))


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
