"""Precision, recall and F1 of tagged entities, as conlleval and seqeval count them.

References:
    - CoNLL-2003, https://arxiv.org/abs/cs/0306050
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
CHUNK_TAG = re.compile(r"[BIESMLU](-.+)?")
SAME_AS = {"M": "I", "L": "E", "U": "S"}
"""Of the schemes BMES and BILOU."""
NO_KIND = "_"
"""Of entities whose tags are a letter alone."""


class Entity(NamedTuple):
    """A stretch of words."""

    kind: str
    first: int
    last: int


def marks_entities(tags: Iterable[str]) -> bool:
    """Whether tags say where entities begin and go on (B-, I-, also E- S- M- L- U-), and don't merely name words."""
    others = [tag for tag in tags if tag != OUTSIDE]
    return any("-" in tag or tag in ("B", "I") for tag in others) and all(CHUNK_TAG.fullmatch(tag) for tag in others)


def odd_tag(tags: Collection[str]) -> str | None:
    """The one tag without which the others would mark entities."""
    odd = [tag for tag in tags if tag != OUTSIDE and not CHUNK_TAG.fullmatch(tag)]
    return odd[0] if len(odd) == 1 and marks_entities(set(tags) - set(odd)) else None


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence.

    One begins at B and S, and wherever the kind changes or nothing was before, whatever the letter; it ends before the
    next, and behind E and S.
    """
    found: list[Entity] = []
    opened: Entity | None = None
    for place, tag in enumerate(tags):
        letter, _, kind = tag.partition("-")
        letter, kind = SAME_AS.get(letter, letter), kind or NO_KIND
        goes_on = opened is not None and letter in "IE" and kind == opened.kind
        if opened is not None and not goes_on:
            found.append(opened)
            opened = None
        if tag != OUTSIDE:
            opened = Entity(kind, opened.first if opened else place, place)
            if letter in "ES":
                found.append(opened)
                opened = None
    return [*found, opened] if opened else found


def entity_scores(
    right: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]], tags: Iterable[str]
) -> dict[str, float]:
    """Scores of whole entities, right only with the right kind and both ends; and the share of right tags.

    Args:
        right: The tags of each sentence.
        guessed: As many for each.
        tags: All that there are, whether they occur here or not.

    Returns:
        precision, recall, f1 (over all entities), f1_macro (the mean over the kinds that occur), and accuracy; only the
        last if the tags don't mark entities. Without any entity the others are 0.
    """
    pairs = [pair for mine, theirs in zip(right, guessed, strict=True) for pair in zip(mine, theirs, strict=True)]
    scores = {"accuracy": sum(a == b for a, b in pairs) / len(pairs)}
    if not marks_entities(tags):
        return scores
    hits, wanted, found = Counter[str](), Counter[str](), Counter[str]()
    for mine, theirs in zip(right, guessed, strict=True):
        a, b = set(entities(mine)), set(entities(theirs))
        hits.update(entity.kind for entity in a & b)
        wanted.update(entity.kind for entity in a)
        found.update(entity.kind for entity in b)
    kinds = set(wanted) | set(found)
    return scores | {
        "precision": _ratio(hits.total(), found.total()),
        "recall": _ratio(hits.total(), wanted.total()),
        "f1": _ratio(2 * hits.total(), wanted.total() + found.total()),
        "f1_macro": sum(_ratio(2 * hits[kind], wanted[kind] + found[kind]) for kind in kinds) / max(1, len(kinds)),
    }


def _ratio(a: int, b: int) -> float:
    return a / b if b else 0.0
