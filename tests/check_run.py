"""Runs `check` on a tiny network."""

import json
from pathlib import Path

from ptm_lightning.__main__ import main
from ptm_lightning.plugins import find_class
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

SMALL = ["--data.vocab_size=400", "--data.max_length=32", "--data.batch_tokens=512"]


def size_of(task: str, architecture: str | None = None) -> str:
    """The flag that makes a task's network tiny."""
    return f"--model.overrides={json.dumps(tiny(architecture or find_class(task, Task, '--model').architecture))}"


def run(text: Path, *more: str, task: str = "MaskedLM") -> int:
    """The exit status of `check`."""
    return main(["check", "--model", task, f"--data.train={text}", *SMALL, size_of(task), *more])


def failed(table: str) -> list[str]:
    """What is wrong, by what `check` prints."""
    return [line[7:].split("  ")[0] for line in table.splitlines() if line.startswith("FAILED")]
