"""Finding tasks, data modules and callbacks: importing a module is registering the classes it defines."""

import sys
import traceback
from abc import ABC
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ptm_lightning.errors import UserError, suggest
from ptm_lightning.log import say

T = TypeVar("T")

GROUP = "ptm_lightning.plugins"


def load_plugins(named: Iterable[str] = ()) -> None:
    """Imports the installed plug-ins, built-in ones among them, and those that are named.

    Args:
        named: Files (`my_task.py`) or modules (`my_package.tasks`). A plug-in is code: it is run.

    Raises:
        UserError: If a named one can't be imported.
    """
    for entry_point in entry_points(group=GROUP):
        try:
            entry_point.load()
        except Exception as error:
            if entry_point.value.startswith("ptm_lightning."):
                raise
            say(f"plug-in {entry_point.name} ({entry_point.value}) is left out: {type(error).__name__}: {error}")
    for name in named:
        _import(name)


def _import(name: str) -> None:
    try:
        if name.endswith(".py"):
            import_file(Path(name))
        else:
            sys.path.insert(0, "")
            try:
                import_module(name)
            finally:
                sys.path.remove("")
    except UserError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        line = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames[1:] else ""  # the first one is this function
        text = str(error)
        if isinstance(error, SyntaxError) and error.filename:
            line, text = f"{error.filename}:{error.lineno}: ", error.msg
        raise UserError(f"--plugin {name}: {line}{type(error).__name__}: {text}") from error


def import_file(path: Path) -> ModuleType:
    """Imports a Python file under its own name, so that later imports by that name find it."""
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == path.resolve():
            return known
        raise UserError(f"--plugin {path}: a module named {name!r} is loaded already; rename the file")
    spec = spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def subclasses(base: type[T]) -> dict[str, type[T]]:
    """All concrete subclasses that are imported, by name; private ones (`_Name`) and those inside functions aside.

    Raises:
        UserError: If two have the same name.
    """
    found: dict[str, type[T]] = {}
    waiting: list[type[T]] = list(base.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        abstract = getattr(cls, "__abstractmethods__", None) or ABC in cls.__bases__
        if abstract or cls.__name__.startswith("_") or "<locals>" in cls.__qualname__:
            continue
        if found.setdefault(cls.__name__, cls) is not cls:
            raise UserError(
                f"two classes are named {cls.__name__}, in {cls.__module__} and in {found[cls.__name__].__module__}; "
                "rename one"
            )
    return found


def find_class(name: str, base: type[T], flag: str) -> type[T]:
    """The imported subclass of a name, with or without its module.

    Raises:
        UserError: If there is none; it names the nearest.
    """
    known = subclasses(base)
    found = known.get(name.rsplit(".", 1)[-1])
    if found is None:
        raise UserError(f"{flag} {name}: no such class; {suggest(name, known)} (a file of your own: --plugin FILE)")
    return found
