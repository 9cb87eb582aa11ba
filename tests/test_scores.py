"""What an evaluation keeps of each example, for every task that measures examples."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from ptm_lightning.tasks import (
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    Summarization,
    TokenClassification,
    Translation,
)
from sacrebleu.metrics.chrf import CHRF

from ptm_lightning.metrics.token_classification import entities
from ptm_lightning.scores import Evaluated, data_digest
from ptm_lightning.task import Task
from ptm_lightning.testing_case import Case, quiet, tiny
from ptm_lightning.testing_texts import example, write_texts

QUESTIONS = {"max_length": 32, "stride": 8}


def case_of(task: type[Task], folder: Path, data: dict[str, Any] | None = None, **arguments: Any) -> Case:
    architecture = arguments.get("architecture", task.architecture)
    texts = write_texts(folder / "texts", labelled=task is not MaskedLM)
    return Case(task, folder, {"overrides": tiny(architecture), **arguments}, {**texts, **(data or {})}, {})


def evaluated(case: Case, **data: Any) -> tuple[Task, Evaluated]:
    task, module = case.loaded(), case.data(**data)
    with quiet():
        metrics = case.trainer().test(task, module, verbose=False)[0]
    return task, Evaluated.of(task, module, "test", "step=00000003.ckpt", metrics)


def write(path: Path, label: Any) -> list[str]:
    path.write_text("".join(json.dumps(example(i) | {"label": label(i)}) + "\n" for i in range(60)))
    return [str(path)]


@pytest.mark.parametrize("kind", ["single", "several", "numbers"])
def test_classification(tmp_path: Path, kind: str):
    label = {"single": lambda i: "ab"[i % 2], "several": lambda i: [*"abc"][: i % 4], "numbers": lambda i: i / 7}[kind]
    source = write(tmp_path / "rows.jsonl", label)
    case = case_of(SequenceClassification, tmp_path, {"train": source, "validation": source, "test": source})
    _, found = evaluated(case)
    name = "mae" if kind == "numbers" else "accuracy"
    assert list(found.scores) == [f"id-{i}" for i in range(60)]
    assert fmean(scores[name] for scores in found.scores.values()) == pytest.approx(found.metrics[f"test/{name}"])
    assert len({scores[name] for scores in found.scores.values()}) > 1 or kind != "single"


def test_questions(tmp_path: Path):
    _, found = evaluated(case_of(QuestionAnswering, tmp_path, QUESTIONS))
    assert list(found.scores) == [f"id-{i}" for i in range(300, 307)]
    for name in ("exact_match", "f1"):
        assert fmean(scores[name] for scores in found.scores.values()) == pytest.approx(found.metrics[f"test/{name}"])


def test_tags(tmp_path: Path):
    task, found = evaluated(case_of(TokenClassification, tmp_path, {"max_length": 16, "stride": 6}))
    right: dict[int, list[str]] = {}
    guessed: dict[int, dict[int, str]] = {}
    for record in task.evaluation.records:
        right[record["sentence"]] = record["right"]
        guessed.setdefault(record["sentence"], {}).update(dict(record["guessed"]))
    expected = []
    for number, tags in right.items():
        wanted = set(entities(tags))
        got = set(entities([guessed[number].get(place, "O") for place in range(len(tags))]))
        total = len(wanted) + len(got)
        expected.append(2 * len(wanted & got) / total if total else 1.0)
    assert [scores["sentence_f1"] for scores in found.scores.values()] == expected
    assert len(expected) == 7


@pytest.mark.parametrize("task", [Summarization, Translation])
def test_answers(tmp_path: Path, task: type[Task]):
    module, found = evaluated(case_of(task, tmp_path, max_new_tokens=8))
    assert len(found.scores) == 7
    if task is Summarization:
        mean = fmean(scores["rougeL"] for scores in found.scores.values())
        assert mean == pytest.approx(found.metrics["test/rougeL"])
    else:
        pairs = [(record["answer"], record["reference"]) for record in module.evaluation.records]
        expected = [CHRF(word_order=2).sentence_score(a, [b]).score for a, b in pairs]
        assert [scores["sentence_chrf"] for scores in found.scores.values()] == pytest.approx(expected)


def test_the_file_gives_it_back(tmp_path: Path):
    values = {f"ä{i}\u2028": {"accuracy": i % 2} for i in range(3)}
    whole = Evaluated("test", "d1", "step=00000001.ckpt", {"test/accuracy": 1 / 3}, values)
    whole.write(tmp_path)
    assert Evaluated.read(tmp_path, "test") == whole
    assert Evaluated.read(tmp_path, "val") is None
    assert [path.name for path in (tmp_path / "evaluations").iterdir()] == ["test.jsonl"]


def test_data_are_the_same_whatever_the_tokenizer(tmp_path: Path):
    case = case_of(SequenceClassification, tmp_path)
    digests = []
    for changes in ({}, {"vocab_size": 120}, {"test": case.data().validation}, {"test": None, "test_share": 0}):
        module = case.data(**changes)
        case.validation(module)
        digests.append(data_digest(module, "test"))
    assert digests[0] == digests[1] != digests[2]
    assert digests[2] == data_digest(module, "val")
    assert digests[3] is None


def test_rows_without_ids_are_numbered(tmp_path: Path):
    texts = write_texts(tmp_path / "texts", labelled=True)
    rows = [json.loads(line) for line in Path(texts["test"][0]).read_text().splitlines()]
    for name, ids in {"none": [None] * 7, "twice": [1, 2, 3, "1", 5, 6, 7], "some": ["a"] * 6 + [None]}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row | {"id": id_}) + "\n" for row, id_ in zip(rows, ids, strict=True)))
    case = Case(SequenceClassification, tmp_path, {"overrides": tiny("bert")}, texts, {})
    for name in ("none", "twice", "some"):
        _, found = evaluated(case, test=[str(tmp_path / f"{name}.jsonl")])
        assert list(found.scores) == [str(i) for i in range(7)]


def test_a_pretraining_objective_has_metrics_only(tmp_path: Path):
    _, found = evaluated(case_of(MaskedLM, tmp_path))
    assert found.scores == {}
    assert found.data
