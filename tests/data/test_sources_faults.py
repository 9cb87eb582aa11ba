"""Names that mean nothing and data that can't be read are refused, with file and line."""

import gzip
import os
import random
from pathlib import Path
from typing import Any

import pytest
from source_rows import FLAG, rows_of, texts_of

from ptm_lightning.data import formats
from ptm_lightning.data.sources import read, resolve
from ptm_lightning.errors import UserError

RESOLVE_ERRORS = {
    "corpsu.txt": "no file 'corpsu.txt'; did you mean 'corpus.txt'?",
    "./corpus": "no file './corpus'; did you mean 'corpus.txt'?",
    "foldr/inside.jsonl": "no file 'foldr/inside.jsonl'; did you mean 'folder/inside.jsonl'?",
    "folder/insid": "no file 'folder/insid'; did you mean 'folder/inside.jsonl'?",
    "a/b/c": "no file 'a/b/c'; check the path",
    "/nowhere/at/all": "no file '/nowhere/at/all'; check the path",
    "qqqqqqqqq.parquet.gz": "no file 'qqqqqqqqq.parquet.gz'; check the path",
    "not a name": "no file 'not a name'; check the path",
    "empty.txt": "'empty.txt' is empty; fill it or leave it out",
    "broken_link.txt": "can't read 'broken_link.txt' (No such file or directory); check it and its permissions",
    "notes.md": f"'notes.md' has an unknown format; supported are {formats.SUPPORTED}",
    "x.zip": f"'x.zip' has an unknown format; supported are {formats.SUPPORTED}",
    "hollow": f"no supported file in the folder 'hollow'; supported are {formats.SUPPORTED}",
    "*.nothing": f"no supported file matches '*.nothing'; supported are {formats.SUPPORTED}",
    "builtin:pyton": "no built-in text 'builtin:pyton'; did you mean 'builtin:python'?",
    "builtin:": "no built-in text 'builtin:'; did you mean 'builtin:python'?",
    " ": "an empty name; give a file, a folder, a glob, a data set's name or builtin:python",
    "holed": "'holed/empty.csv' is empty; fill it or leave it out",
}


@pytest.mark.parametrize("name", RESOLVE_ERRORS)
def test_a_name_that_means_nothing_is_refused(here: Path, name: str) -> None:
    for folder in ("folder", "hollow", "holed"):
        (here / folder).mkdir()
    for file in ("corpus.txt", "folder/inside.jsonl", "notes.md", "x.zip"):
        (here / file).write_text("x")
    for file in ("empty.txt", "holed/empty.csv"):
        (here / file).touch()
    (here / "broken_link.txt").symlink_to("gone.txt")
    with pytest.raises(UserError) as error:
        resolve(["corpus.txt", name], "--data.validation")
    assert str(error.value) == f"--data.validation: {RESOLVE_ERRORS[name]}"


def test_a_file_without_permission_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("x")

    def refuse(*_: object) -> None:  # root may read everything, so the mode bits alone prove nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError) as error:
        resolve(["a.txt"], FLAG)
    assert str(error.value) == "--data.train: can't read 'a.txt' (Permission denied); check it and its permissions"


def test_a_folder_that_cannot_be_listed_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "corpus" / "inner").mkdir(parents=True)
    (here / "corpus" / "a.txt").write_text("x")
    listed = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError) as error:
        resolve(["corpus"], FLAG)
    assert str(error.value) == "--data.train: can't list 'corpus/inner' (Permission denied); check its permissions"


ICONV = "is not UTF-8; convert it with iconv -f ITS_ENCODING -t UTF-8"
QUOTE = "put the cell in double quotes and double the quotes inside it"
READ_ERRORS = {
    "latin.txt": (b"a\n\nb\nGr" + b"\xfc\xdfe\n", f":4: byte 3 of the line (0xfc) {ICONV}"),
    "utf16.txt": ("text".encode("utf-16"), f":1: byte 1 of the line (0xff) {ICONV}"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n', f":2: byte 11 of the line (0xe9) {ICONV}"),
    "latin.json": (b'[{"text": "a"},\n{"text": "\xe9"}]\n', f":2: byte 11 of the line (0xe9) {ICONV}"),
    "latin.csv": (b"text\na\n\xe9\n", f":3: byte 1 of the line (0xe9) {ICONV}"),
    "broken.jsonl": (
        b'{"text": "a"}\n\n{"text": "b"\n',
        ":3: broken JSON (Expecting ',' delimiter, column 13); repair the line",
    ),
    "broken.json": (
        b'\n[{"text": "a"},\n{"text": b}]',
        ":3: broken JSON (Expecting value, column 10); repair the line",
    ),
    "broken_lines.json": (
        b'{"text": "a"}\n{"text": \n',
        ":2: broken JSON (Expecting value, column 9); repair the line",
    ),
    "list.jsonl": (b'{"text": "a"}\n["b"]\n', ':2: ["b"] is not a row; write an object, {"text": "..."}'),
    "strings.json": (b'[{"text": "a"}, "b"]', ': row 2: "b" is not a row; write an object, {"text": "..."}'),
    "number.json": (b"7", ': row 1: 7 is not a row; write an object, {"text": "..."}'),
    "column.jsonl": (
        b'{"text": "a"}\n{"txt": "b", "id": 1}\n',
        ":2: no column 'text'; the columns are txt, id; name yours with --data.columns.text=txt",
    ),
    "column.csv": (
        b"id,body\n1,b\n",
        ":2: no column 'text'; the columns are id, body; name yours with --data.columns.text=id",
    ),
    "column.json": (b"[{}]", ": row 1: no column 'text'; the columns are none; add it, or leave the file out"),
    "cells.csv": (
        b'id,text\n1,"a\nb"\n2,b,c\n',
        ":4: 3 cells where the header has 2; quote a cell that holds the delimiter or a newline",
    ),
    "twice.tsv": (b"text\ttext\na\tb\n", ":1: the column 'text' stands there twice; rename one"),
    "quotes.csv": (b'text\na\n"b" c\n', f":3: ',' expected after '\"'; {QUOTE}"),
    "open.csv": (b'text\na\n"b\nc\n', f":3: unexpected end of data; {QUOTE}"),
    "null.jsonl": (b'{"text": null}\n', ":1: column 'text' holds None, not text; put it in quotes"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 12}\n', ":2: column 'text' holds 12, not text; put it in quotes"),
    "half.jsonl": (
        b'{"text": "a \\ud83d"}\n',
        ":1: column 'text' holds half a character (\\ud83d); cut it out or repair it",
    ),
    "plain.txt.gz": (
        b"not gzip",
        ": the gzip data are broken (Not a gzipped file (b'no')); get the file again, gzip -t checks it",
    ),
    "torn.jsonl.gz": (
        gzip.compress(b'{"text": "a"}\n' * 1000)[:-10],
        ": the gzip data are broken (Compressed file ended before the end-of-stream marker was reached); "
        "get the file again, gzip -t checks it",
    ),
}


@pytest.mark.parametrize("name", READ_ERRORS)
def test_bad_data_are_refused_with_file_and_line(here: Path, name: str) -> None:
    data, message = READ_ERRORS[name]
    Path(name).write_bytes(data)
    with pytest.raises(UserError) as error:
        rows_of(name)
    assert str(error.value) == f"--data.train: {name}{message}"


def test_a_flipped_byte_in_gzip_is_refused(here: Path) -> None:
    rng = random.Random(0)
    data = bytearray(gzip.compress("".join(f"{rng.random()}\n" for _ in range(2000)).encode()))
    data[len(data) // 2] ^= 0xFF
    Path("a.txt.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"^--data\.train: a\.txt\.gz: the gzip data are broken \("):
        rows_of("a.txt.gz")


def test_a_broken_parquet_file_is_refused(here: Path) -> None:
    Path("a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(
        UserError, match=r"^--data\.train: a\.parquet: the parquet data are broken \(.*\); get the file"
    ):
        rows_of("a.parquet")


def test_a_column_that_was_named_wrongly_is_refused(here: Path) -> None:
    Path("a.csv").write_text("body,id\nb,1\n")
    with pytest.raises(UserError) as error:
        rows_of("a.csv", columns={"text": "bdy"})
    assert str(error.value) == (
        "--data.train: a.csv:2: no column 'bdy'; the columns are body, id; name yours with --data.columns.text=body"
    )
    with pytest.raises(
        UserError, match=r"no column 'lable'; the columns are body, id; name yours with --data\.columns\.label=id$"
    ):
        rows_of("a.csv", columns={"text": "body", "label": "lable"})


def test_a_file_that_vanishes_is_refused(here: Path) -> None:
    Path("a.txt").write_text("x")
    (source,) = resolve(["a.txt"], FLAG)
    Path("a.txt").unlink()
    with pytest.raises(UserError) as error:
        list(read(source, FLAG))
    assert str(error.value) == (
        "--data.train: a.txt: can't be read (No such file or directory); check the file and its disk"
    )


def test_text_without_blank_lines_does_not_fill_the_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LONGEST_DOCUMENT", 1 << 20)
    Path("a.txt").write_text("short\n\n" + "a line\n" * 200_000)
    with pytest.raises(UserError) as error:
        rows_of("a.txt")
    assert str(error.value) == (
        "--data.train: a.txt:3: more than 1 MB without a blank line; split the documents by blank lines, "
        "or set split_text to line if each line is a document"
    )
    assert len(texts_of("a.txt", split_text="line")) == 200_001
