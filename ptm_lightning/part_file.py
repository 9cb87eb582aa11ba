"""The beginning of a long output, kept so that a killed command goes on where it stopped."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ptm_lightning.data.predict import Done
from ptm_lightning.data.sources import Source, fingerprint
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.files import atomic_write, sync_folder
from ptm_lightning.log import say
from ptm_lightning.presets import flatten
from ptm_lightning.task import Task

IRRELEVANT = ("num_workers", "cache_dir")
"""Arguments of data modules that predictions don't depend on."""


def command_of(task: Task, data: TaskData, precision: str, weights: str) -> dict[str, Any]:
    """All that predictions depend on, as plain values by dotted names; the model's files by their size and time.

    Of the texts only the names are among it: `Done` has a digest of those that there are predictions for, so that a
    later one may be mended.

    Args:
        task: With its arguments.
        data: With what to predict for.
        precision: The trainer's.
        weights: A checkpoint, a transformers folder, or a name on the hub.
    """
    path = Path(weights)
    files = [path] if path.is_file() else sorted(path.glob("*"))
    source = Source(weights, tuple(files), "files" if files else "hub")
    stamps = {name: f"{size:,} bytes, changed at {changed}" for name, size, changed in fingerprint(source)}
    names = [item.name for item in fields(type(data)) if item.name not in IRRELEVANT]  # type: ignore[arg-type]
    command = {
        "task": type(task).__name__,
        "model": dict(task.hparams),
        "data": {name: getattr(data, name) for name in names},
        "precision": precision,
        "files": stamps,
    }
    plain: dict[str, Any] = json.loads(json.dumps(command, default=str))
    return flatten(plain)


@dataclass(frozen=True)
class PartFile:
    """A file that isn't whole yet, and a note beside it: what command it is of, and how far it goes."""

    path: Path
    """It may have more than is noted: what was written last when the command was killed."""
    command: Mapping[str, Any]
    """What the content depends on."""

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def open(self) -> Done:
        """Makes the file, or cuts it to what is whole and of the same command; tells what that is."""
        noted = self._noted() if self._note.exists() and self.path.exists() else None
        if noted and self.path.stat().st_size < noted["size"]:
            say(f"{self.path}: has lost its end; starting anew")
            noted = None
        if noted is None:
            self._note.unlink(missing_ok=True)
            self.path.touch()
        os.truncate(self.path, noted["size"] if noted else 0)
        return Done(*noted["done"]) if noted else Done()

    def note(self, done: Done) -> None:
        """Notes that the file, as it is on the disk, has the predictions for these inputs."""
        content = {"done": done, "size": self.path.stat().st_size, "command": self.command}
        atomic_write(self._note, json.dumps(content) + "\n")

    def become(self, path: Path) -> None:
        """Gives the file its name: it is whole."""
        os.replace(self.path, path)
        self.remove()
        sync_folder(path.parent)

    def remove(self) -> None:
        """Leaves nothing."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _noted(self) -> dict[str, Any] | None:
        """The note, if it is of the same command."""
        noted: dict[str, Any] = json.loads(self._note.read_text(encoding="utf-8"))
        then, now = noted["command"], self.command
        if changed := [key for key in {**then, **now} if then.get(key) != now.get(key)]:
            key = changed[0]
            say(f"{self.path}: is of another command ({key}: {then.get(key)} then, {now.get(key)} now); starting anew")
            return None
        say(f"{self.path}: has the first {noted['done'][0]:,} predictions; going on behind them")
        return noted
