"""Kill, full disk and I/O error at each system call of writing a checkpoint: the old or the new one is there, whole."""

import ctypes
import gc
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from ptm_lightning.checkpoint import (
    FORMAT,
    KEY,
    SafeCheckpointIO,
    append_index,
    entry_of,
    newest_valid,
    read_index,
    step_path,
)

CALL = re.compile(r"^(\w+)\(")
# Of the calls on files, these are no part of writing; each of the others is failed, one by one.
OTHER = {"mmap", "getppid"}
TRACED = 77
PR_SET_PTRACER = 0x59616D61
STEP = 7


def save(folder: Path, value: float) -> None:
    path = step_path(folder, STEP)
    content = {KEY: {"format": FORMAT}, "value": torch.full((3000,), value), "more": list(range(50))}
    SafeCheckpointIO().save_checkpoint(content, path)
    append_index(folder, entry_of(path, {"val/loss": value}, "val/loss", "min"))


def traced_save(folder: Path, *options: str) -> int:
    """Saves the new checkpoint in a child under strace; returns its status: 0, 1 for OSError, or minus a signal."""
    child = os.fork()
    if child == 0:
        try:
            gc.disable()  # what earlier tests have left open would be closed here or there, and counted
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
            while os.getppid() != TRACED:  # strace answers in the kernel's place as soon as it sees every call
                time.sleep(0.001)
            save(folder, 2.0)
        except OSError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    handshake = ("-e", f"inject=getppid:retval={TRACED}")
    tracer = subprocess.Popen(["strace", "-qq", "-p", str(child), *options, *handshake], stderr=subprocess.DEVNULL)
    tracer.wait()
    os.kill(child, signal.SIGTERM)  # without effect, but on one that still waits for a tracer that has failed
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    works = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
    if works.returncode:
        pytest.skip("strace may not trace here")


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A run folder on the temporary folder's file system, and one on another."""
    if request.param == "disk":
        yield tmp_path
        return
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with TemporaryDirectory(dir=other) as name:
        yield Path(name)


def calls_of_a_save(folder: Path, log: Path) -> Counter[str]:
    assert traced_save(folder, "-o", str(log), "-e", "trace=%file,%desc,getppid") == 0
    names = [match[1] for line in log.read_text().splitlines() if (match := CALL.match(line))]
    return Counter(name for name in names if name not in OTHER)


@pytest.mark.usefixtures("strace")
def test_every_system_call_of_a_save(folder: Path, tmp_path: Path) -> None:
    runs = folder / "runs"
    save(runs, 1.0)
    calls = calls_of_a_save(runs, tmp_path / "log")
    assert calls["fsync"] >= 3
    assert sum(calls[name] for name in ("rename", "renameat", "renameat2")) == 1
    seen: Counter[tuple[str, float]] = Counter()
    # On the second file system only what could differ there: replacing, and having no space.
    faults = ("signal=KILL", "error=ENOSPC", "error=EIO") if folder == tmp_path else ("signal=KILL", "error=ENOSPC")
    for fault in faults:
        for name, count in calls.items():
            for number in range(1, count + 1):
                shutil.rmtree(runs)
                save(runs, 1.0)
                status = traced_save(runs, "-o", "/dev/null", "-e", f"inject={name}:{fault}:when={number}")
                where = f"{fault} at {name} {number} of {count}"
                # The garbage collector closes files too, not each time: the last call of a kind may be its.
                assert "KILL" not in fault or status == -9 or number == count or name == "close", where
                assert status in (-9, 0, 1), where
                seen[fault, check(runs, where, killed=status == -9)] += 1
    for fault in faults:
        assert seen[fault, 1.0] >= 5
        assert seen[fault, 2.0] >= 1


def check(runs: Path, where: str, killed: bool) -> float:
    """The file is the old or the new one, is found valid, and nothing but a killed write's own file lies beside it."""
    path = step_path(runs, STEP)
    assert newest_valid(runs) == (path, []), where
    value = SafeCheckpointIO().load_checkpoint(path)["value"]
    assert value.min() == value.max(), where
    assert all(entry.step == STEP for entry in read_index(runs)), where
    beside = {each.name for each in runs.iterdir()} - {path.name, "index.jsonl"}
    assert beside <= ({f".{path.name}.tmp"} if killed else set()), where
    return float(value[0])


@pytest.mark.usefixtures("strace")
def test_order_is_sync_rename_sync(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert traced_save(tmp_path / "runs", "-o", str(log), "-e", "trace=fsync,rename,renameat,renameat2,getppid") == 0
    names = [match[1] for line in log.read_text().splitlines() if (match := CALL.match(line))]
    assert [name.rstrip("at2") for name in names if name not in OTHER] == ["fsync", "rename", "fsync", "fsync"]


def test_a_full_disk_is_an_os_error_and_leaves_the_old(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    save(tmp_path, 1.0)
    path = step_path(tmp_path, STEP)
    temporary = tmp_path / f".{path.name}.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path, 2.0)
    assert check(tmp_path, "/dev/full", killed=False) == 1.0


def test_a_folder_without_permission_is_an_error_and_not_silence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        save(tmp_path / "file" / "runs", 1.0)
