"""Scores of entities against conlleval's rules, written out by the pair of tags at each border."""

import random

import pytest

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
