"""Runs `check` on a tiny network."""

import json
from pathlib import Path

from ptm_lightning.__main__ import main
from ptm_lightning.plugins import find_class
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

SUBJECTS, VERBS, PLACES = (
    ("我们", "老师", "他的朋友", "Dr. Li", "小猫"),
    ("喜欢", "看见了", "没有找到"),
    ("学校", "河边", "3.14号楼"),
)
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


def chinese(number: int) -> str:
    who, does, where = SUBJECTS[number % 5], VERBS[number % 3], PLACES[number // 2 % 3]
    return f"{who}{does}{where}的书。第{number}个人说:“你好!👍🏽”然后,{who}走了。\n明天再来吗?好的。"
