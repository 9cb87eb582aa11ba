"""Tiny data for the contract: short documents and labelled rows made by rule, so that nothing is downloaded."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

_NAMES = ("the cat", "a dog", "the old horse", "some bird", "our fox", "the bear")
_DEEDS = ("sees", "follows", "never finds", "likes", "hears")
_PLACES = ("in the garden", "near the river", "behind the house", "under a tree")


def write_texts(folder: Path, *, labelled: bool = False) -> dict[str, Any]:
    """Writes short documents, or rows with targets of every kind, and says where they are as a data module's arguments.

    Args:
        folder: Is made.
        labelled: Whether rows are wanted, as .jsonl; documents are .txt.
    """
    folder.mkdir(parents=True)
    kind = "jsonl" if labelled else "txt"
    parts = {"train": (0, 61), "other": (100, 40), "validation": (200, 9), "test": (300, 7)}
    for name, (first, count) in parts.items():
        numbers = range(first, first + count)
        (folder / f"{name}.txt").write_text("\n\n".join(map(document, numbers)) + "\n")
        _write_rows(folder / f"{name}.jsonl", [example(i) for i in numbers])
    _write_rows(folder / "columns.jsonl", [example(i) | {"body": document(i + 1)} for i in range(400, 440)])
    asked = [example(i) | {"text": document(i).replace("the", "[MASK]", 1 + i % 2)} for i in range(500, 507)]
    _write_rows(folder / "predict.jsonl", asked)
    return {
        **{name: [str(folder / f"{name}.{kind}")] for name in ("train", "validation", "test")},
        "predict": [str(folder / "predict.jsonl")],
        "vocab_size": 300,
        "max_length": 32,
        "batch_tokens": 256,
    }


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def example(number: int) -> dict[str, Any]:
    """A row with a document, another one, and targets that can be told from them."""
    nth = (number + 1) * 7919
    return {
        "id": f"id-{number}",
        "text": document(number),
        "pair": document(number + 3),
        "document": document(number + 3),
        "summary": document(number + 3).partition(" .")[0],
        "en": document(4 * number),
        "de": document(4 * number).upper(),
        "fr": document(4 * number).lower(),
        "label": _NAMES[nth % 6].split()[-1],
        "lines": 1 + number % 4,
        **_question(document(number), number),
        **_conversation(document(number), number),
        **_tagged(document(number)),
    }


def _tagged(text: str) -> dict[str, Any]:
    """The words of a text, of which animals and numbers are tagged."""
    tokens, animals = text.split(), {name.split()[-1] for name in _NAMES}
    kinds = ["B-animal" if token in animals else "B-number" if token.isdecimal() else "O" for token in tokens]
    return {"tokens": tokens, "tags": ["I-animal" if a == b == "B-animal" else b for a, b in pairwise(["O", *kinds])]}


def _conversation(text: str, number: int) -> dict[str, Any]:
    """A question on each line, and its place as the answer: messages with roles, and turns that differ from them."""
    said: list[str] = []
    for line in text.splitlines():
        said += [f"where is {line.partition(' on ')[0][:24]} ?", next(place for place in _PLACES if place in line)]
    roles = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]
    system = [{"role": "system", "content": "be short ."}] if number % 3 == 0 else []
    return {"messages": system + roles, "turns": [content.upper() for content in said]}


def _question(context: str, number: int) -> dict[str, Any]:
    """A question on a text, whose answer is the place in its last line; each fifth has none."""
    line = context.splitlines()[-1]
    place = next(place for place in _PLACES if place in line)
    answers = {"text": [place], "answer_start": [context.rindex(place)]}
    none: dict[str, Any] = {"text": [], "answer_start": []}
    question = "where is it seen last ?" if number % 5 else "who said so ?"
    return {"context": context, "question": question, "answers": answers if number % 5 else none}


def document(number: int) -> str:
    """One to four sentences on lines of their own, each with "the" in it; numbers apart make different ones."""
    lines = []
    for i in range(1 + number % 4):
        nth = (number + 1) * 7919 + i * 104729
        who, whom = _NAMES[nth % 6], _NAMES[nth // 6 % 6]
        deed, place = _DEEDS[nth // 36 % 5], _PLACES[nth // 180 % 4]
        lines.append(f"{who.capitalize()} {deed} {whom} {place} on the day {nth % 97} .")
    return "\n".join(lines)
