"""What a user writes after --data.train, --data.validation, --data.test or --data.predict, as rows."""

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, Literal, NoReturn

from ptm_lightning.data.builtin import BUILTIN
from ptm_lightning.data.class_names import named_rows
from ptm_lightning.data.columns import renamed, with_more_columns
from ptm_lightning.data.formats import (
    READERS,
    SUPPORTED,
    Place,
    Placed,
    Row,
    SplitText,
    as_text,
    format_of,
    read_file,
    read_stream,
)
from ptm_lightning.errors import UserError, suggest

__all__ = ["Row", "Source", "content_key", "fingerprint", "is_blank", "read", "resolve"]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:.+)?")


@dataclass(frozen=True)
class Source:
    """One name that the user wrote, and the files behind it."""

    name: str
    """What the user wrote."""
    files: tuple[Path, ...]
    """The files in the order they are read; empty for the hub and the built-in text."""
    kind: Literal["files", "hub", "builtin", "stdin"]


def resolve(names: Sequence[str], flag: str) -> list[Source]:
    """Finds out what each name means; nothing but the beginning of each file is opened.

    Args:
        names: Each a file, a folder (its supported files, recursively, sorted, hidden ones left out), a glob (sorted;
            `**` reaches subfolders), `builtin:NAME`, or a data set on the hub, `owner/name` or `owner/name:config`;
            behind --data.predict also `-`, standard input.
        flag: The flag they stand behind, for messages.

    Returns:
        One source per name, in the same order.

    Raises:
        UserError: For a name that means nothing, no supported files, and one that is empty, unreadable or unknown.
    """
    return [_resolve_one(name, flag) for name in names]


def read(
    source: Source,
    flag: str,
    *,
    split_text: SplitText = "blank_line",
    columns: Mapping[str, str] | None = None,
    required: Sequence[str] = ("text",),
    check: Callable[[Row, str], None] | None = None,
    hub_split: str = "train",
    keep_blank: bool = False,
) -> Iterator[Row]:
    """Streams the rows of a source; rows whose required columns are all blank are left out, if not asked for.

    Args:
        source: From `resolve`.
        flag: The flag it stands behind, for messages.
        split_text: Whether a .txt file holds documents split by blank lines, or one a line.
        columns: The task's column name to the user's, {"text": "body"}. Text files and built-in text have no columns to
            name, so it doesn't touch them. A column may also stand inside another, as in {"translation": {"en": ...}}.
        required: The task's columns that must be there and hold text, or tokens of it.
        check: Takes each row that isn't blank, and the place to name when it refuses it.
        hub_split: The split of a data set on the hub.
        keep_blank: Whether blank rows come along; `is_blank` tells them.

    Returns:
        An iterator of rows with the task's column names; other columns come along as they are.

    Raises:
        UserError: While iterating, with the flag, file and line, for data that can't be read or lack a column.
    """
    first = required[0] if required else "text"  # what a text without columns is
    for where, rows, named in _parts(source, flag, split_text, hub_split, first, (columns or {}).get(first, first)):
        mapping = dict(columns or {}) if named else {}
        # Names and not the mapping alone: a column that the user renamed must be there, required or not.
        wanted = {name: mapping.get(name, name) for name in (*required, *mapping)}
        needed = frozenset(wanted.values())
        for place, row in rows:
            if not row.keys() >= needed and not (row := with_more_columns(row)).keys() >= needed:
                _refuse_columns(row, wanted, f"{where}:{place}", flag)
            if mapping:
                row = renamed(row, mapping)
            _check_text(row, required, where, place)
            blank = is_blank(row, required)
            if not blank and check is not None:
                check(row, f"{where}:{place}")
            if not blank or keep_blank:
                yield row


def is_blank(row: Row, required: Sequence[str]) -> bool:
    """Whether none of the required columns of a row that was read holds more than white space."""
    texts = (as_text(row[name]) for name in required)
    return bool(required) and all(text == "" or text.isspace() for text in texts)


def fingerprint(source: Source) -> list[tuple[str, int, int]]:
    """What tells, without reading the files, that nothing has changed.

    Args:
        source: From `resolve`.

    Returns:
        (absolute path, bytes, modification time in ns) of each file; (name, 0, Python's version as a number) for
        built-in text; (name, 0, 0) for a data set on the hub.
    """
    if source.kind == "files":
        stats = [(str(path.absolute()), path.stat()) for path in source.files]
        return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return [(source.name, 0, sys.hexversion if source.kind == "builtin" else 0)]


def content_key(source: Source) -> str:
    """A hash of the content, whatever the files are called.

    Args:
        source: From `resolve`.

    Returns:
        Hexadecimal blake2b of the files' formats and bytes; of the name and Python's version for built-in text; of the
        name for a data set on the hub, whose split the caller adds.
    """
    key = blake2b(digest_size=16)
    for path in source.files:
        with path.open("rb") as file:
            digest = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
        key.update(f"{format_of(path)} {path.suffix.lower()} {digest}\n".encode())
    if source.kind != "files":
        key.update(f"{source.name} {sys.version if source.kind == 'builtin' else ''}".encode())
    return key.hexdigest()


def _resolve_one(name: str, flag: str) -> Source:
    if name.startswith("builtin:"):
        if name.removeprefix("builtin:") not in BUILTIN:
            raise UserError(
                f"{flag}: no built-in text '{name}'; {suggest(name, [f'builtin:{key}' for key in BUILTIN])}"
            )
        return Source(name, (), "builtin")
    if name == "-":
        if flag != "--data.predict":
            raise UserError(f"{flag}: standard input can't be read twice; write it to a file first")
        return Source(name, (), "stdin")
    if not name.strip():
        raise UserError(f"{flag}: an empty name; give a file, a folder, a glob, a data set's name or builtin:python")
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        files = [file for file in _walk(path, flag) if format_of(file)]
        what = "in the folder"
    elif os.path.lexists(path):
        files = [path]
    elif glob.has_magic(name):
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))
        files = sorted(file for file in matches if format_of(file) and not file.is_dir())
        what = "matches"
    elif _looks_like_path(name, path) or not HUB_NAME.fullmatch(name):
        near = _nearest(path)
        raise UserError(f"{flag}: no file '{name}'; " + (f"did you mean '{near}'?" if near else "check the path"))
    else:
        return Source(name, (), "hub")
    if not files:
        raise UserError(f"{flag}: no supported file {what} '{name}'; supported are {SUPPORTED}")
    for file in files:
        _check_file(file, flag)
    return Source(name, tuple(files), "files")


def _walk(folder: Path, flag: str) -> list[Path]:
    """The files under a folder, sorted, hidden ones left out; a folder that can't be listed is an error."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{flag}: can't list '{error.filename}' ({error.strerror}); check its permissions") from error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += (Path(parent, name) for name in names if not name.startswith("."))
    return sorted(found)


def _check_file(path: Path, flag: str) -> None:
    if format_of(path) is None:
        raise UserError(f"{flag}: '{path}' has an unknown format; supported are {SUPPORTED}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{flag}: can't read '{path}' ({error.strerror}); check it and its permissions") from error
    if empty:
        raise UserError(f"{flag}: '{path}' is empty; fill it or leave it out")


def _looks_like_path(name: str, path: Path) -> bool:
    """Whether a name that doesn't exist was meant for a file and not for the hub."""
    in_folder = len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.exists())
    known = Path(path.name.lower().removesuffix(".gz")).suffix in READERS
    return known or name.startswith((".", "/", "~")) or in_folder


def _nearest(path: Path) -> Path | None:
    """The path that exists and is written most alike, folder by folder."""
    if os.path.exists(path):
        return path
    folder = _nearest(path.parent)
    if folder is None or not folder.is_dir() or not os.access(folder, os.R_OK):
        return None
    names = sorted(os.listdir(folder))
    near = get_close_matches(path.name, names, n=1) or [name for name in names if name.startswith(path.name)]
    return folder / near[0] if near else None


def _parts(
    source: Source, flag: str, split_text: SplitText, hub_split: str, ours: str, theirs: str
) -> Iterator[tuple[str, Placed, bool]]:
    """(beginning of messages, placed rows, whether the user names the columns) of each file."""
    if source.kind == "builtin":
        yield f"{flag}: {source.name}", _numbered(BUILTIN[source.name.removeprefix("builtin:")]()), False
    elif source.kind == "hub":
        yield f"{flag}: {source.name}", _numbered(_hub_rows(source.name, flag, hub_split)), True
    elif source.kind == "stdin":
        where = f"{flag}: standard input"
        yield where, read_stream(sys.stdin.buffer, where, theirs), True
    for path in source.files:
        where = f"{flag}: {path}"
        yield where, read_file(path, where, split_text, ours), format_of(path) != ".txt"


def _numbered(rows: Iterable[Row]) -> Placed:
    return ((f" row {number}", row) for number, row in enumerate(rows, 1))


def _hub_rows(name: str, flag: str, split: str) -> Iterable[Row]:
    """A data set from the hub, downloaded once into the cache of `datasets`."""
    import datasets  # type: ignore[import-untyped]

    repository, _, config = name.partition(":")
    near = _nearest(Path(name))
    meant = f"; did you mean the file '{near}'?" if near else ""
    try:
        rows: Any = datasets.load_dataset(repository, config or None, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        fix = meant or "; check the name, and log in with hf auth login if it is private"
        raise UserError(f"{flag}: no file and no data set on the hub is called '{repository}'{fix}") from error
    except ConnectionError as error:
        fix = meant or "; connect, or download it elsewhere and give its files"
        raise UserError(f"{flag}: '{name}' is no file here, and the hub can't be reached for it{fix}") from error
    except Exception as error:  # building a data set fails in as many ways as there are data sets
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{flag}: the data set '{name}' of the hub can't be loaded: {reason}") from error
    return named_rows(rows)


def _refuse_columns(row: Row, wanted: Mapping[str, str], where: str, flag: str) -> NoReturn:
    """Says which column is missing, which ones there are, and how to name the right one."""
    ours, missing = next((ours, theirs) for ours, theirs in wanted.items() if theirs not in row)
    free = [name for name in row if name not in wanted.values()]
    near = get_close_matches(missing, free, n=1) or free
    there = ", ".join(name[:40] for name in row) or "none"
    option = f"{flag.rpartition('.')[0]}.columns.{ours}"
    fix = f"name yours with {option}={near[0]}" if near else "add it, or leave the file out"
    raise UserError(f"{where}: no column '{missing}'; the columns are {there}; {fix}")


def _check_text(row: Row, required: Sequence[str], where: str, place: Place) -> None:
    """Refuses required columns that aren't strings that UTF-8 can write."""
    for name in required:
        value = as_text(row[name])
        if not isinstance(value, str):
            raise UserError(f"{where}:{place}: column '{name}' holds {value!r:.40}, not text; put it in quotes")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = f"\\u{ord(value[error.start]):04x}"
                raise UserError(
                    f"{where}:{place}: column '{name}' holds half a character ({half}); cut it out or repair it"
                ) from error
