"""Scores of entities against seqeval, and against conlleval's rules, written out by the pair of tags at a border."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from seqeval import scheme
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

from ptm_lightning.metrics.token_classification import (
    Entity,
    entities,
    entity_scores,
    marks_entities,
    odd_tag,
)


def ends(before: str, tag: str, kind_before: str, kind: str) -> bool:
    """Conlleval's endOfChunk, for B, I, E and S."""
    if before in ("E", "S"):
        return True
    if before in ("B", "I") and tag in ("B", "S", "O"):
        return True
    return before != "O" and kind_before != kind


def starts(before: str, tag: str, kind_before: str, kind: str) -> bool:
    """Conlleval's startOfChunk."""
    if tag in ("B", "S"):
        return True
    if before in ("E", "S", "O") and tag in ("E", "I"):
        return True
    return tag != "O" and kind_before != kind


def chunks(tags: list[str]) -> set[tuple[str, int, int]]:
    found, begin = set(), 0
    before, kind_before = "O", "O"
    for place, full in enumerate([*tags, "O"]):
        tag, kind = full[0], full[2:] or "O"
        if ends(before, tag, kind_before, kind):
            found.add((kind_before, begin, place - 1))
        if starts(before, tag, kind_before, kind):
            begin = place
        before, kind_before = tag, kind
    return found


TAGS = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"]


def test_entities_are_conllevals() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        tags = rng.choices(TAGS, k=rng.randint(0, 8))
        assert {tuple(entity) for entity in entities(tags)} == chunks(tags), tags


def test_an_entity_that_goes_on_without_a_beginning_counts() -> None:
    assert entities(["I-PER", "I-PER", "O", "B-LOC", "B-LOC"]) == [
        Entity("PER", 0, 1),
        Entity("LOC", 3, 3),
        Entity("LOC", 4, 4),
    ]


@pytest.mark.parametrize("outside", [0.0, 0.5, 1.0])
def test_scores_count_whole_entities(outside: float) -> None:
    rng = random.Random(1)
    for _ in range(100):
        sizes = [rng.randint(0, 6) for _ in range(rng.randint(1, 8))] + [1]
        right, guessed = (
            [["O" if rng.random() < outside else rng.choice(TAGS) for _ in range(size)] for size in sizes]
            for _ in range(2)
        )
        guessed[0] = right[0]
        scores = entity_scores(right, guessed, TAGS)
        flat = [(a, b) for mine, theirs in zip(right, guessed, strict=True) for a, b in zip(mine, theirs, strict=True)]
        assert scores.pop("accuracy") == pytest.approx(sum(a == b for a, b in flat) / len(flat))
        if {tag for pair in flat for tag in pair} == {"O"}:
            assert scores == dict.fromkeys(("precision", "recall", "f1", "f1_macro"), 0.0)  # as seqeval has it
            continue
        wanted, found = (
            {(n, *chunk) for n, tags in enumerate(side) for chunk in chunks(tags)} for side in (right, guessed)
        )

        def f1(a: set[tuple[int, str, int, int]], b: set[tuple[int, str, int, int]]) -> tuple[float, float, float]:
            precision, recall = len(a & b) / max(1, len(b)), len(a & b) / max(1, len(a))
            return precision, recall, 2 * precision * recall / (precision + recall) if a & b else 0.0

        kinds = {chunk[1] for chunk in wanted | found}
        by_kind = [f1(*({c for c in side if c[1] == kind} for side in (wanted, found)))[2] for kind in kinds]
        assert [scores["precision"], scores["recall"], scores["f1"]] == pytest.approx(list(f1(wanted, found)))
        assert scores["f1_macro"] == pytest.approx(sum(by_kind) / len(by_kind))


def theirs(right: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]], **strict: Any) -> dict[str, float]:
    """Seqeval's scores; it warns where it divides by 0, and its macro F1 of no entity at all is NaN, ours 0."""
    sides = [[list(tags) for tags in side] for side in (right, guessed)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": float(accuracy_score(*sides)),
            "precision": float(precision_score(*sides, **strict)),
            "recall": float(recall_score(*sides, **strict)),
            "f1": float(f1_score(*sides, **strict)),
            "f1_macro": float(np.nan_to_num(f1_score(*sides, average="macro", **strict))),
        }


@pytest.mark.parametrize("outside", [0.0, 0.5, 0.95])
def test_scores_are_seqevals(outside: float) -> None:
    """Of any tags in any order, as an untrained network gives them."""
    rng = random.Random(2)
    for _ in range(100):
        sizes = [rng.randint(0, 6) for _ in range(rng.randint(1, 6))] + [1]
        right, guessed = (
            [["O" if rng.random() < outside else rng.choice([*TAGS, "B", "I"]) for _ in range(size)] for size in sizes]
            for _ in range(2)
        )
        guessed[0] = right[0]
        assert entity_scores(right, guessed, TAGS) == pytest.approx(theirs(right, guessed))


NASTY = {
    "only O": ([["O", "O"]], [["O", "O"]]),
    "nothing is there": ([["O", "O", "O"]], [["B-a", "I-a", "O"]]),
    "nothing is found": ([["B-a", "I-a", "O"]], [["O", "O", "O"]]),
    "one token": ([["B-a"]], [["B-a"]]),
    "one token of another kind": ([["B-a"]], [["B-b"]]),
    "a sentence without tokens": ([[], ["B-a", "O"]], [[], ["B-a", "B-a"]]),
    "I without B": ([["B-a", "I-a", "O", "B-b"]], [["I-a", "I-a", "O", "I-b"]]),
    "another kind inside": ([["B-a", "I-b", "I-a"]], [["B-a", "I-a", "I-a"]]),
    "neighbours": ([["B-a", "B-a", "I-a"]], [["B-a", "I-a", "I-a"]]),
    "at the borders of sentences": ([["O", "B-a"], ["I-a", "O"]], [["O", "B-a"], ["B-a", "O"]]),
    "one too long": ([["B-a", "I-a", "O"]], [["B-a", "I-a", "I-a"]]),
    "hyphens in kinds": ([["B-x-1", "I-x-1", "B-x-2"]], [["B-x-1", "I-x-1", "I-x-2"]]),
    "letters alone": ([["B", "I", "O", "B"]], [["I", "I", "O", "O"]]),
}


@pytest.mark.parametrize("case", NASTY)
def test_scores_of_nasty_tags_are_seqevals(case: str) -> None:
    assert entity_scores(*NASTY[case], ["O", "B-a", "I-a"]) == pytest.approx(theirs(*NASTY[case]))


LETTERS = {"IOB2": "BIIB", "IOBES": "BIES", "BILOU": "BILU"}
"""Of each scheme: how an entity begins, goes on and ends, and what one of a single word has."""


def regular(rng: random.Random, letters: str) -> list[str]:
    """A sentence that keeps to a scheme."""
    first, inner, last, alone = letters
    tags: list[str] = []
    for _ in range(rng.randint(0, 4)):
        kind, size = rng.choice(["a", "b", "a-b"]), rng.randint(1, 4)
        shape = alone if size == 1 else first + inner * (size - 2) + last
        tags += [f"{letter}-{kind}" for letter in shape] + ["O"] * rng.randint(0, 2)
    return tags


@pytest.mark.parametrize("name", LETTERS)
def test_of_regular_tags_seqevals_strict_mode_says_the_same(name: str) -> None:
    rng = random.Random(3)
    tried = 0
    for _ in range(300):
        right, other = (regular(rng, LETTERS[name]) for _ in range(2))
        size = max(len(right), len(other)) + 1
        pair = [[tags + ["O"] * (size - len(tags)), right + ["O"] * (size - len(right))] for tags in (right, other)]
        strict = theirs(*pair, mode="strict", scheme=getattr(scheme, name))
        assert entity_scores(*pair, ["O", "B-a", "I-a"]) == pytest.approx(strict)
        tried += 0 < strict["f1"] < 1
    assert tried > 100


def test_tags_that_mark_no_entities_have_an_accuracy_only() -> None:
    assert entity_scores([["NOUN", "VERB"]], [["NOUN", "NOUN"]], ["NOUN", "VERB"]) == {"accuracy": 0.5}
    assert marks_entities(["O", "B-a", "I-a"])
    assert not marks_entities(["O"])
    assert not marks_entities(["O", "B-a", "NOUN"])


def test_other_schemes_are_read() -> None:
    sentence = ["B-a", "{inside}-a", "{end}-a", "O", "{single}-b", "B-b"]
    expected = [Entity("a", 0, 2), Entity("b", 4, 4), Entity("b", 5, 5)]
    for inside, end, single in ("IES", "MES", "ILU"):
        tags = [tag.format(inside=inside, end=end, single=single) for tag in sentence]
        assert marks_entities(tags)
        assert entities(tags) == expected


def test_letters_alone_mark_entities_of_no_kind() -> None:
    assert marks_entities(["B", "I", "O"])
    assert entities(["B", "I", "O", "B"]) == [Entity("_", 0, 1), Entity("_", 3, 3)]
    assert not marks_entities(["S", "M", "L", "O"])
    assert marks_entities(["O", "S-a"])


def test_a_single_odd_tag_is_named() -> None:
    assert odd_tag(["O", "B-a", "I-a", "domain=en"]) == "domain=en"
    assert odd_tag(["O", "B-a", "I-a"]) is None
    assert odd_tag(["NOUN", "VERB", "I-a"]) is None
    assert odd_tag(["S", "M", "L", "NOUN"]) is None
