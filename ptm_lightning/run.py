"""The run folder: where everything of a run goes, who writes there, and how far it is.

Nothing here imports torch, so that the command line answers at once.
"""

import fcntl
import json
import os
import re
import signal
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict

import yaml

from ptm_lightning import __version__
from ptm_lightning.errors import UserError
from ptm_lightning.files import atomic_write

SECRET = re.compile(
    r"api_?key|access_?key|secret|password"
    r"|(?<!mask_)(?<!pad_)(?<!unk_)(?<!cls_)(?<!sep_)(?<!bos_)(?<!eos_)token$",
    re.IGNORECASE,
)

State = Literal["running", "interrupted", "finished", "failed"]


class Interrupted(SystemExit):
    """A run was told to go and went, its step saved: the exit status of a script is 128 plus the signal's number.

    Args:
        number: The signal; None for a process that ends quietly beside the first one.
    """

    def __init__(self, number: int | None) -> None:
        super().__init__(128 + number if number else 0)
        self.signal = number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.signal).name}" if self.signal else "ended with the first process"


class RunState(TypedDict, total=False):
    """What `run.json` holds."""

    preset: str
    task: str
    state: State
    seeds: list[int]
    data: dict[str, str | None]
    version: str
    created: str
    best: dict[str, Any]


def new_run_dir(root: Path, preset: str) -> Path:
    """Makes a run folder that wasn't there, `<root>/<preset>/<time>`.

    Args:
        root: Usually `runs`.
        preset: The preset's name.

    Returns:
        The new, empty folder.

    Raises:
        UserError: The folder can't be made.
    """
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ["", *(f"-{count}" for count in range(2, 1000))]:
        folder = root / preset / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"--run_dir {folder}: can't be made ({error.strerror}); choose another folder") from None
        return folder
    raise AssertionError("a thousand runs in one second")


class RunLock:
    """Holds a run folder for this process; the system lets go of it when the process dies, however it dies.

    Args:
        folder: The run folder; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: Another process has it, or the folder can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(
                f"run folder {self.folder} can't be written ({error.strerror}); choose another --run_dir"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(
                f"run folder {self.folder} is in use by {holder or 'another process'}; "
                "wait for it or choose another --run_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        # A forked data worker outlives a killed parent for seconds, and must not hold the lock for so long.
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Lets go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_state(folder: Path) -> RunState | None:
    """What `run.json` says; None if the folder is no run's."""
    try:
        state: RunState = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def write_state(folder: Path, state: RunState) -> None:
    """Writes into `run.json` what is given, and our version; what else is there stays.

    Args:
        folder: The run folder.
        state: Some or all of the values.
    """
    stored: RunState = read_state(folder) or {"created": datetime.now(UTC).isoformat()}
    complete: RunState = {**stored, "version": __version__, **state}
    atomic_write(folder / "run.json", json.dumps(complete, indent=2) + "\n")


def seeds_of(folder: Path) -> list[int]:
    """The seeds whose runs lie in the folder; none if it is a run itself."""
    return list((read_state(folder) or {}).get("seeds", ()))


def newest(root: Path) -> Path | None:
    """The run that was begun last, whatever became of it."""
    return max(_runs(root), key=_age, default=None)


def newest_unfinished(root: Path, preset: str, task: str) -> Path | None:
    """The run that `--resume` without a folder takes.

    Args:
        root: Usually `runs`.
        preset: The preset's name.
        task: The task's class name.

    Returns:
        The newest run of this preset and task that didn't finish; None if there is none.
    """
    unfinished = [
        folder
        for folder, state in _runs(root).items()
        if state.get("preset") == preset and state.get("task") == task and state.get("state") != "finished"
    ]
    return max(unfinished, key=_age, default=None)


def _runs(root: Path) -> dict[Path, RunState]:
    paths = [*root.glob("*/run.json"), *root.glob("*/*/run.json")]
    found = {path.parent: state for path in paths if (state := read_state(path.parent)) is not None}
    return {folder: state for folder, state in found.items() if not found.get(folder.parent, {}).get("seeds")}


def _age(folder: Path) -> tuple[str, str]:
    state = read_state(folder)
    return (state or {}).get("created", ""), folder.name


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the resolved config as `config.yaml`, without secrets.

    Args:
        folder: The run folder.
        config: Plain values, nested.
    """
    atomic_write(folder / "config.yaml", yaml.safe_dump(without_secrets(config), sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the resolved config back.

    Raises:
        UserError: There is none, or it can't be read.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {folder} is not a run folder") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds no settings")
    return config


def without_secrets(value: Any) -> Any:
    """The same value without the keys that name a secret, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items() if not SECRET.search(str(key))}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value
