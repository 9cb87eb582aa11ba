"""A tiny corpus for the contract: short documents made by rule, so that nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

_NAMES = ("the cat", "a dog", "the old horse", "some bird", "our fox", "the bear")
_DEEDS = ("sees", "follows", "never finds", "likes", "hears")
_PLACES = ("in the garden", "near the river", "behind the house", "under a tree")


def write_texts(folder: Path) -> dict[str, Any]:
    """Writes short documents, and says where they are as arguments of a data module."""
    folder.mkdir(parents=True)
    parts = {"train": (0, 61), "other": (100, 40), "validation": (200, 9), "test": (300, 7)}
    for name, (first, count) in parts.items():
        (folder / f"{name}.txt").write_text("\n\n".join(map(document, range(first, first + count))) + "\n")
    rows = [{"text": document(i), "body": document(i + 1)} for i in range(400, 440)]
    asked = [{"id": f"id-{i}", "text": document(i).replace("the", "[MASK]", 1 + i % 2)} for i in range(500, 507)]
    for name, lines in {"columns": rows, "predict": asked}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        **{name: [str(folder / f"{name}.txt")] for name in ("train", "validation", "test")},
        "predict": [str(folder / "predict.jsonl")],
        "vocab_size": 300,
        "max_length": 32,
        "batch_tokens": 256,
    }


def document(number: int) -> str:
    """One to four sentences on lines of their own, each with "the" in it; numbers apart make different ones."""
    lines = []
    for i in range(1 + number % 4):
        nth = (number + 1) * 7919 + i * 104729
        who, whom = _NAMES[nth % 6], _NAMES[nth // 6 % 6]
        deed, place = _DEEDS[nth // 36 % 5], _PLACES[nth // 180 % 4]
        lines.append(f"{who.capitalize()} {deed} {whom} {place} on the day {nth % 97} .")
    return "\n".join(lines)
