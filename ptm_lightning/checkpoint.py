"""Checkpoints on disk: written whole or not at all, read without running code, the newest valid one found.

A run's checkpoints are `checkpoints/step=00001200.ckpt`, and `checkpoints/index.jsonl` has a line for each.
"""

import hashlib
import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import nn

from ptm_lightning.errors import UserError
from ptm_lightning.files import append, atomic, atomic_write

FORMAT = 1
"""Counts up whenever a checkpoint can't be read any more by the version before."""
KEY = "ptm_lightning"
"""What we add to Lightning's checkpoint lies under this key."""
NAME = re.compile(r"step=(\d+)\.ckpt")

MapLocation = Callable[..., Any] | torch.device | str | dict[str, str] | None


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoint format, written atomically on any file system and read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes beside the target, syncs, replaces, syncs the folder.

        Args:
            checkpoint: What Lightning dumps.
            path: The file.
            storage_options: Lightning's; there are none.

        Raises:
            OSError: The file was not written; the old one is as it was.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} takes no storage_options")
        atomic(Path(path), lambda file: _save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: MapLocation = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads tensors and plain values only, whatever `weights_only` or the environment says.

        Args:
            path: A local file.
            map_location: Where tensors go; None is the CPU, as with Lightning's own.
            weights_only: Lightning's; always taken as True.

        Returns:
            What Lightning dumped.

        Raises:
            UserError: The file is missing, damaged, carries code, or is a URL.
        """
        if "://" in str(path):
            raise UserError(f"{path}: a checkpoint is read from a local file, not from a URL; download it first")
        try:
            with zipfile.ZipFile(path) as archive:
                # torch itself doesn't look at the checksums of what it reads.
                if archive.testzip() is not None:
                    raise _damaged(path)
            loaded = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"{path}: no such checkpoint") from None
        except (UserError, MemoryError):
            raise
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror or error}); use another checkpoint") from None
        except Exception as error:  # whatever a parser may make of damaged bytes
            if isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower():
                raise UserError(f"{path}: carries Python code, which is never run; make it again without") from None
            raise _damaged(path) from error
        if not isinstance(loaded, dict):
            raise UserError(f"{path}: is no checkpoint, but a {type(loaded).__name__}")
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file if it is there."""
        Path(path).unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # torch speaks of an unexpected position when the disk is full.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _damaged(path: str | Path) -> UserError:
    return UserError(
        f"{path}: is damaged or no checkpoint at all; use another one, --resume takes the newest valid one"
    )


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint that one of our tasks wrote, to the CPU.

    Args:
        path: A local file.

    Returns:
        Lightning's dictionary; what we added lies under `KEY`.

    Raises:
        UserError: The file can't be read, isn't ours, or is newer than this version.
    """
    checkpoint = SafeCheckpointIO().load_checkpoint(path)
    record_of(checkpoint, path)
    return checkpoint


def load_weights(module: nn.Module, checkpoint: Mapping[str, Any], source: str | Path) -> None:
    """Puts a checkpoint's weights into a module.

    Args:
        module: The task.
        checkpoint: Lightning's dictionary.
        source: The file, for the message.

    Raises:
        UserError: They don't fit.
    """
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{source}: its weights don't fit {type(module).__name__} with these arguments "
            f"({checkpoint[KEY]['task']} wrote it); export it and give the folder as --model.backbone"
        ) from error


def record_of(checkpoint: Mapping[str, Any], source: str | Path = "the checkpoint") -> dict[str, Any]:
    """What one of our tasks added to Lightning's checkpoint.

    Args:
        checkpoint: Lightning's dictionary.
        source: The file, for the message.

    Returns:
        The part under `KEY`.

    Raises:
        UserError: There is none, or it is newer than this version.
    """
    ours = checkpoint.get(KEY)
    if not isinstance(ours, dict) or not isinstance(ours.get("format"), int):
        raise UserError(f"{source}: was not written by ptm_lightning")
    if ours["format"] > FORMAT:
        raise UserError(f"{source}: was written by a newer version of ptm_lightning; upgrade to read it")
    return ours


@dataclass(frozen=True)
class Entry:
    """A line of the index."""

    name: str
    step: int
    size: int
    sha256: str
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the validation at this very step; empty if there was none."""
    monitor: str | None = None
    """The metric that tells which one is best."""
    mode: Literal["min", "max"] = "min"

    def score(self, monitor: str | None, mode: str) -> float | None:
        """The metric, turned so that smaller is better; None if it is missing or not finite."""
        value = self.metrics.get(monitor or "", math.nan)
        return None if not math.isfinite(value) else value if mode == "min" else -value


def step_path(folder: Path, step: int) -> Path:
    """The checkpoint of an optimizer step in a run's `checkpoints` folder."""
    return folder / f"step={step:08d}.ckpt"


def step_files(folder: Path) -> dict[int, Path]:
    """A folder's checkpoints by step, in order."""
    found = {int(match[1]): path for path in folder.glob("step=*.ckpt") if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def entry_of(path: Path, metrics: dict[str, float], monitor: str | None, mode: Literal["min", "max"]) -> Entry:
    """The index line of a file that was just written."""
    step = int(path.stem.removeprefix("step="))
    return Entry(path.name, step, path.stat().st_size, _sha256(path), metrics, monitor, mode)


def append_index(folder: Path, entry: Entry) -> None:
    """Adds a line to the index, for good."""
    append(folder / "index.jsonl", json.dumps(asdict(entry)) + "\n")


def write_index(folder: Path, entries: list[Entry]) -> None:
    """Writes the whole index anew."""
    atomic_write(folder / "index.jsonl", "".join(json.dumps(asdict(entry)) + "\n" for entry in entries))


def read_index(folder: Path) -> list[Entry]:
    """The index lines of the checkpoints that are there, by step.

    Args:
        folder: A run's `checkpoints` folder.

    Returns:
        One entry for a file: the last line wins. A line torn by a crash is left out, as is one whose file is gone.
    """
    path = folder / "index.jsonl"
    entries: dict[int, Entry] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if (folder / entry.name).exists():
            entries[entry.step] = entry
    return [entries[step] for step in sorted(entries)]


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read, so that a damaged one costs only the steps since the one before.

    Args:
        folder: A run's `checkpoints` folder; it need not be there.

    Returns:
        The file, or None, and a message for each damaged one that was skipped.
    """
    entries = {entry.name: entry for entry in read_index(folder)}
    skipped: list[str] = []
    for path in reversed(step_files(folder).values()):
        entry = entries.get(path.name)
        if entry and path.stat().st_size == entry.size and _sha256(path) == entry.sha256:
            return path, skipped
        try:
            # A crash between writing the file and its line leaves a good file without a line.
            load_checkpoint(path)
        except UserError as error:
            skipped.append(f"{str(error).partition(';')[0]}; it is skipped")
        else:
            return path, skipped
    return None, skipped


def best(folder: Path) -> Path | None:
    """The checkpoint with the best metric, by the index; the metric is the one that the run watches.

    Args:
        folder: A run's `checkpoints` folder.

    Returns:
        The file; the newest one if nothing was watched or validated; None if there is none.
    """
    entries = read_index(folder)
    ranked = ranking(entries)
    chosen = ranked[0] if ranked else entries[-1] if entries else None
    return folder / chosen.name if chosen else None


def ranking(entries: list[Entry]) -> list[Entry]:
    """The entries that have the watched metric, best first, the older one first among equals.

    Args:
        entries: By step; what the last one that names a metric names is what is watched.

    Returns:
        Fewer or as many.
    """
    watched = [(entry.monitor, entry.mode) for entry in entries if entry.monitor]
    if not watched:
        return []
    monitor, mode = watched[-1]
    scored = [(score, entry.step, entry) for entry in entries if (score := entry.score(monitor, mode)) is not None]
    return [entry for _, _, entry in sorted(scored, key=lambda item: item[:2])]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
