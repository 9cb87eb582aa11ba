"""Every command and every line of Python in the README runs."""

import re
import shlex
from pathlib import Path

import pytest

from ptm_lightning.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_commands_run_in_order(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(corpus.read_text())
    (tmp_path / "domain.txt").write_text("\n\n".join(f"Bug {i} of debhelper: compat {i % 9}." for i in range(200)))
    commands = re.findall(r"^\$ python -m ptm_lightning (.*)$", README, re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        assert main(shlex.split(command)) == 0, command


def test_python_runs(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(corpus.read_text())
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert names["task"].tokens_seen > 0
