import os
from pathlib import Path

import pytest

from ptm_lightning.files import append, atomic, atomic_write, shared_write


def test_atomic_write_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "früher\n")
    atomic_write(path, "später\n")
    assert path.read_text() == "später\n"
    assert [each.name for each in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    atomic_write(path, "old")

    def fail(file: object) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        atomic(path, fail)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["b.txt"]


def test_another_process_that_writes_the_same_file_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "key", os.fsync

    def while_another_writes(descriptor: int) -> None:
        monkeypatch.setattr("os.fsync", sync)
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: 1)
            shared_write(path, "theirs")
        assert path.read_text() == "theirs"

    monkeypatch.setattr("os.fsync", while_another_writes)
    shared_write(path, "ours")
    assert path.read_text() == "ours"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_append_ends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append(path, "one\n")
    path.write_bytes(path.read_bytes() + b"torn")
    append(path, "two\n")
    assert path.read_text() == "one\ntorn\ntwo\n"


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    append(path, "one\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(path, "two\n")
    assert path.read_text() == "one\n"
