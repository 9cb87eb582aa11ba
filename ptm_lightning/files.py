"""Files that are whole or not there: a crash, a full disk or a power cut never leaves half of one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left, also where a library hides the system's error in a text."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL or any(f"(os error {full})" in str(error) for full in FULL)


def temporary_path(path: Path) -> Path:
    """Where a file is written before it takes its name: beside it, hence on the same file system."""
    return path.parent / f".{path.name}.tmp"


def atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that the old or the new one is there at every moment, and the new one for good afterwards.

    Args:
        path: The file. Its folder is made if need be.
        write: Gets the open file.

    Raises:
        OSError: Nothing was written; what was there before still is, and no temporary file stays.
    """
    _put(path, temporary_path(path), write)


def _put(path: Path, temporary: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, by `atomic`.

    Args:
        path: The file.
        text: All of its content.
    """
    atomic(path, lambda file: file.write(text.encode()))


def shared_write(path: Path, text: str) -> None:
    """`atomic_write` for a cache: other processes may write the same file at the same moment, and the last one's stays.

    Args:
        path: The file.
        text: All of its content.

    Raises:
        OSError: Nothing was written.
    """
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    _put(path, temporary_path(mine), lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, text: str) -> None:
    """Appends whole lines for good, or nothing. A torn line that a crash left before them gets its own end.

    Args:
        path: The file, made if need be.
        text: Lines, each with its newline.

    Raises:
        OSError: Nothing was appended.
    """
    with open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        try:
            _write_all(file.fileno(), (b"\n" if torn else b"") + text.encode())
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
