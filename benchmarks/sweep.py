"""A death at every single system call of writing a checkpoint, and the comparison of two checkpoints bit by bit."""

import gc
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from kill_at import traced

from ptm_lightning.checkpoint import SafeCheckpointIO, append_index, entry_of, newest_valid, read_index, step_path

VARYING = re.compile(r"^/loops$|/hours$")
"""Paths in a checkpoint that may differ: Lightning's counters of how often something began, and the time spent."""


def difference(left: Any, right: Any, path: str = "") -> str | None:
    """The first place at which two checkpoints aren't the same, bit by bit; None if there is none."""
    if VARYING.search(path):
        return None
    if type(left) is not type(right):
        return f"{path}: {type(left).__name__} and {type(right).__name__}"
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return f"{path}: the keys {sorted(map(str, left.keys() ^ right.keys()))} are on one side only"
        return next((found for key in left if (found := difference(left[key], right[key], f"{path}/{key}"))), None)
    if isinstance(left, list | tuple):
        if len(left) != len(right):
            return f"{path}: {len(left)} and {len(right)} items"
        pairs = enumerate(zip(left, right, strict=True))
        return next((found for i, (a, b) in pairs if (found := difference(a, b, f"{path}/{i}"))), None)
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and bool((_bits(left) == _bits(right)).all())
        return None if same else f"{path}: tensors differ"
    return None if repr(left) == repr(right) else f"{path}: {left!r} and {right!r}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def sweep(folder: Path, checkpoint: dict[str, Any]) -> tuple[int, list[str]]:
    """Writes a checkpoint beside an older one, killed at every single system call of that.

    Args:
        folder: For the files.
        checkpoint: What is written.

    Returns:
        The number of deaths, and what went wrong.
    """
    wrong: list[str] = []
    calls = _calls_of_a_save(folder, checkpoint)
    for name, count in calls.items():
        for nth in range(1, count + 1):
            checkpoints = _with_an_older_one(folder, checkpoint)
            status = _forked_save(
                checkpoints, checkpoint, "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={nth}"
            )
            path, skipped = newest_valid(checkpoints)
            whole = path is not None and difference(SafeCheckpointIO().load_checkpoint(path), checkpoint) is None
            if status != -signal.SIGKILL or not whole or skipped or not read_index(checkpoints):
                wrong.append(f"{name} {nth} of {count}: status {status}, found {path}, {skipped}")
    return calls.total(), wrong


def _with_an_older_one(folder: Path, checkpoint: dict[str, Any]) -> Path:
    shutil.rmtree(folder / "sweep", ignore_errors=True)
    _save(folder / "sweep", checkpoint, 1)
    return folder / "sweep"


def _save(checkpoints: Path, checkpoint: dict[str, Any], step: int) -> None:
    path = step_path(checkpoints, step)
    SafeCheckpointIO().save_checkpoint(checkpoint, path)
    append_index(checkpoints, entry_of(path, {}, None, "min"))


def _calls_of_a_save(folder: Path, checkpoint: dict[str, Any]) -> Counter[str]:
    """The system calls that have to do with files, with their numbers."""
    log = folder / "strace"
    _forked_save(_with_an_older_one(folder, checkpoint), checkpoint, "-o", str(log), "-e", "trace=%file,%desc,getppid")
    names = [match[1] for line in log.read_text().splitlines() if (match := re.match(r"(\w+)\(", line))]
    return Counter(name for name in names if name not in ("mmap", "munmap", "getppid"))


def _forked_save(checkpoints: Path, checkpoint: dict[str, Any], *options: str) -> int:
    """Saves in a child under strace; returns its status, minus the signal if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        gc.disable()  # files that others have left open would be closed here or there, and counted
        try:
            with traced(*options):
                _save(checkpoints, checkpoint, 2)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
