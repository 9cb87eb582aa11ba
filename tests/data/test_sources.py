import csv
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptm_lightning.data import builtin, formats
from ptm_lightning.data.sources import Row, Source, content_key, fingerprint, read, resolve
from ptm_lightning.errors import UserError

FLAG = "--data.train"
TEXTS = [
    "One line.",
    "Two lines,\n  the second indented.",
    'Quotes " and, commas\tand tabs.',
    "Grüße, 世界 🎈",
    "x" * 200_000,
]


def rows_of(name: object, **settings: Any) -> list[Row]:
    (source,) = resolve([str(name)], FLAG)
    return list(read(source, FLAG, **settings))


def texts_of(name: object, **settings: Any) -> list[str]:
    return [row["text"] for row in rows_of(name, **settings)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(texts: Iterable[str], delimiter: str) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["text", "id"], *([document, str(n)] for n, document in enumerate(texts))])
    return text.getvalue()


def objects(texts: Iterable[str]) -> list[Row]:
    return [{"text": text, "id": n} for n, text in enumerate(texts)]


WRITERS: dict[str, Callable[[list[str]], str]] = {
    "a.txt": lambda texts: "\n \n\n".join(texts),
    "a.jsonl": lambda texts: "".join(json.dumps(row) + "\n" for row in objects(texts)),
    "list.json": lambda texts: json.dumps(objects(texts)),
    "indented.json": lambda texts: "\n\n" + json.dumps(objects(texts), indent=1, ensure_ascii=False),
    "data.json": lambda texts: json.dumps({"version": 2, "data": objects(texts)}),
    "data_indented.json": lambda texts: json.dumps({"data": objects(texts)}, indent=2),
    "lines.json": lambda texts: "\n" + "\n".join(json.dumps(row, ensure_ascii=False) for row in objects(texts)),
    "a.csv": lambda texts: table(texts, ","),
    "a.tsv": lambda texts: table(texts, "\t"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
def test_every_format_gives_back_what_was_written(here: Path, name: str, zipped: bool, mark: bytes) -> None:
    data = mark + WRITERS[name](TEXTS).encode()
    path = here / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(data) if zipped else data)
    rows = rows_of(path)
    assert [row["text"] for row in rows] == TEXTS
    if not name.endswith(".txt"):
        assert [int(row["id"]) for row in rows] == list(range(len(TEXTS)))


def test_parquet_gives_back_what_was_written(here: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = TEXTS + [f"row {n}" for n in range(1000)]
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), "a.parquet", row_group_size=300)
    assert rows_of("a.parquet") == objects(texts)


def test_one_object_in_a_json_file_is_one_row(here: Path) -> None:
    Path("a.json").write_text('{"text": "a"}')
    Path("b.json").write_text('{\n"text": "b"\n}')
    assert texts_of("a.json") + texts_of("b.json") == ["a", "b"]


def test_documents_are_split_as_a_naive_loop_splits_them(here: Path) -> None:
    raw = "\n\n first\nstill first \n\t\nsecond\r\nstill second\r\n\r\n\nthird\x0b\n\n\n\x0c\nlast\u2028one"
    Path("a.txt").write_bytes(raw.encode())
    naive = [
        part.strip("\n") for part in re.split(r"\n(?:[ \t\x0b\x0c]*\n)+", raw.replace("\r\n", "\n")) if part.strip()
    ]
    assert texts_of("a.txt") == naive == [" first\nstill first ", "second\nstill second", "third\x0b", "last\u2028one"]
    lines = [line for line in raw.replace("\r\n", "\n").split("\n") if line.strip()]
    assert texts_of("a.txt", split_text="line") == lines


def test_blank_documents_are_left_out(here: Path) -> None:
    Path("a.jsonl").write_text('{"text": ""}\n\n{"text": " \\n\\t\\u00a0"}\n{"text": "kept"}\n')
    assert texts_of("a.jsonl") == ["kept"]
    assert texts_of("a.jsonl", keep_blank=True) == ["", " \n\t\u00a0", "kept"]
    Path("pairs.jsonl").write_text('{"a": "", "b": "x"}\n{"a": "", "b": " "}\n')
    assert rows_of("pairs.jsonl", required=("a", "b")) == [{"a": "", "b": "x"}]


def test_an_empty_table_or_gzip_gives_no_rows(here: Path) -> None:
    Path("a.csv").write_text("text\n")
    Path("a.json").write_text("[]")
    Path("b.json").write_text(" \n")
    Path("a.txt.gz").write_bytes(gzip.compress(b""))
    assert [rows_of(name) for name in ("a.csv", "a.json", "b.json", "a.txt.gz")] == [[], [], [], []]


def test_columns_get_the_tasks_names(here: Path) -> None:
    Path("a.jsonl").write_text('{"body": "b", "text": "t", "id": 7}\n')
    assert rows_of("a.jsonl") == [{"body": "b", "text": "t", "id": 7}]
    assert rows_of("a.jsonl", columns={"text": "body"}) == [{"text": "b", "id": 7}]
    swapped = {"text": "body", "body": "text"}
    assert rows_of("a.jsonl", columns=swapped) == [{"text": "b", "body": "t", "id": 7}]
    assert rows_of("a.jsonl", columns={"one": "text", "two": "text"}, required=("one",)) == [
        {"one": "t", "two": "t", "body": "b", "id": 7}
    ]
    Path("a.txt").write_text("text files have no columns to name")
    assert len(texts_of("a.txt", columns={"text": "body"})) == 1


def test_a_folder_is_read_in_order_without_hidden_and_other_files(here: Path) -> None:
    for name in (
        "b.txt",
        "a/z.jsonl",
        "a/B.TXT",
        "a.csv.gz",
        "notes.md",
        ".hidden.txt",
        ".git/x.txt",
        "c/x.parquet.gz",
    ):
        path = here / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (source,) = resolve(["corpus"], FLAG)
    assert source == Source("corpus", source.files, "files")
    assert [path.as_posix() for path in source.files] == [
        f"corpus/{name}" for name in ("a/B.TXT", "a/z.jsonl", "a.csv.gz", "b.txt")
    ]


def test_a_glob_is_sorted_and_reaches_subfolders(here: Path) -> None:
    for name in ("p10.txt", "p2.txt", "sub/deep/p1.txt", "p3.md", "[odd].txt"):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    flat, deep, odd = resolve(["p*", "**/p*.txt", "[odd].txt"], FLAG)
    assert [str(path) for path in flat.files] == ["p10.txt", "p2.txt"]
    assert [str(path) for path in deep.files] == ["p10.txt", "p2.txt", "sub/deep/p1.txt"]
    assert [str(path) for path in odd.files] == ["[odd].txt"]
    assert list(read(deep, FLAG)) == [{"text": "p10.txt"}, {"text": "p2.txt"}, {"text": "sub/deep/p1.txt"}]


def test_names_that_are_no_files_belong_to_the_hub(here: Path) -> None:
    names = ["imdb", "owner/name", "owner/data-v1.0:en", "wikitext:wikitext-103-raw-v1"]
    assert resolve(names, FLAG) == [Source(name, (), "hub") for name in names]


def test_builtin_text_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        builtin.BUILTIN, "python", lambda: iter([{"text": "a", "module": "m"}, {"text": " ", "module": "n"}])
    )
    (source,) = resolve(["builtin:python"], FLAG)
    assert source == Source("builtin:python", (), "builtin")
    assert list(read(source, FLAG, columns={"text": "body"})) == [{"text": "a", "module": "m"}]
    with pytest.raises(UserError) as error:
        list(read(source, FLAG, required=("text", "label")))
    assert str(error.value) == (
        "--data.train: builtin:python: row 1: no column 'label'; the columns are text, module; "
        "name yours with --data.columns.label=module"
    )


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


def big(name: str) -> Iterator[str]:
    if name.startswith("a.csv"):
        yield "text,id\n"
    for n in range(40_000):
        text = f"document {n} " + "word " * 50
        yield {"t": f"{text}\n\n", "j": json.dumps({"text": text}) + "\n", "c": f'"{text}",{n}\n'}[name[2]]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.txt.gz"])
def test_memory_does_not_grow_with_the_file(here: Path, name: str) -> None:
    with gzip.open(name, "wt", compresslevel=1) if name.endswith(".gz") else open(name, "w") as file:
        file.writelines(big(name))
    (source,) = resolve([name], FLAG)
    tracemalloc.start()
    count = sum(1 for _ in read(source, FLAG))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 4 << 20  # of 10 MB of text; the buffer is 1 MB


def test_the_fingerprint_tells_changes_and_the_key_tells_contents(here: Path) -> None:
    Path("a.txt").write_text("one")
    Path("b.txt").write_text("two")
    (source,) = resolve(["*.txt"], FLAG)
    stat = Path("a.txt").stat()
    assert fingerprint(source)[0] == (str(here / "a.txt"), 3, stat.st_mtime_ns)
    os.utime("a.txt", ns=(0, stat.st_mtime_ns + 1))
    assert fingerprint(source)[0] == (str(here / "a.txt"), 3, stat.st_mtime_ns + 1)
    before = content_key(source)
    digests = [blake2b(text, digest_size=16).hexdigest() for text in (b"one", b"two")]
    naive = blake2b("".join(f".txt .txt {digest}\n" for digest in digests).encode(), digest_size=16)
    assert before == naive.hexdigest()

    (here / "moved").mkdir()
    for name in ("a.txt", "b.txt"):
        Path(name).rename(here / "moved" / f"other_{name}")
    (moved,) = resolve(["moved"], FLAG)
    assert content_key(moved) == before

    Path("moved/other_a.txt").write_text("onet")
    Path("moved/other_b.txt").write_text("wo")
    assert content_key(moved) != before
    Path("moved/other_a.txt").write_text("one")
    Path("moved/other_b.txt").write_text("two")
    assert content_key(moved) == before
    Path("moved/other_a.txt").rename("moved/other_a.jsonl")
    assert content_key(*resolve(["moved"], FLAG)) != before


def test_the_fingerprints_of_what_has_no_files() -> None:
    python, hub, other = resolve(["builtin:python", "owner/name", "owner/name:config"], FLAG)
    assert fingerprint(python) == [("builtin:python", 0, sys.hexversion)]
    assert fingerprint(hub) == [("owner/name", 0, 0)]
    assert len({content_key(source) for source in (python, hub, other)}) == 3


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A stand-in for the data sets library, which takes seconds to import."""

    class DatasetNotFoundError(FileNotFoundError):
        pass

    def load_dataset(*names: str | None, split: str) -> list[Row]:
        fake.asked = (*names, split)
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return fake.answer

    fake = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetNotFoundError=DatasetNotFoundError), answer=[]
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_a_data_set_of_the_hub_gives_rows(hub: SimpleNamespace, here: Path) -> None:
    hub.answer = [{"body": "a", "label": 1}, {"body": "", "label": 0}]
    assert rows_of("owner/name:en", columns={"text": "body"}, hub_split="test") == [{"text": "a", "label": 1}]
    assert hub.asked == ("owner/name", "en", "test")
    rows_of("imdb", required=())
    assert hub.asked == ("imdb", None, "train")
    with pytest.raises(UserError) as error:
        rows_of("imdb")
    assert str(error.value) == (
        "--data.train: imdb: row 1: no column 'text'; the columns are body, label; "
        "name yours with --data.columns.text=body"
    )


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["O", "B-x"], "_type": "ClassLabel"}, "_type": "List"},
}
NUMBERED = [{"text": "a", "label": 1, "tags": [0, 1]}, {"text": "b", "label": -1, "tags": []}]
NAMED = [{"text": "a", "label": "good", "tags": ["O", "B-x"]}, {"text": "b", "label": None, "tags": []}]


def test_labels_of_the_hub_have_their_names(hub: SimpleNamespace, here: Path) -> None:
    class Rows(list[Row]):
        features = SimpleNamespace(to_dict=lambda: FEATURES)

    hub.answer = Rows(NUMBERED)
    assert rows_of("owner/name") == NAMED


def test_labels_of_parquet_files_have_the_names_in_their_metadata(here: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(NUMBERED)
    pq.write_table(table, "bare.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": '{"info": {}}'}), "none.parquet")
    told = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    pq.write_table(table.replace_schema_metadata(told), "named.parquet")
    found = [rows_of(f"{name}.parquet") for name in ("bare", "none", "named")]
    assert found == [NUMBERED, NUMBERED, NAMED]


def test_failures_of_the_hub_say_what_to_do(hub: SimpleNamespace, here: Path) -> None:
    missing = hub.exceptions.DatasetNotFoundError("doesn't exist")
    said = []
    for answer in (missing, ConnectionError("no route"), ValueError("Config name is missing.\nPick one"), OSError()):
        hub.answer = answer
        with pytest.raises(UserError) as error:
            rows_of("corpsu")
        said.append(str(error.value))
    assert said == [
        "--data.train: no file and no data set on the hub is called 'corpsu'; "
        "check the name, and log in with hf auth login if it is private",
        "--data.train: 'corpsu' is no file here, and the hub can't be reached for it; "
        "connect, or download it elsewhere and give its files",
        "--data.train: the data set 'corpsu' of the hub can't be loaded: Config name is missing.",
        "--data.train: the data set 'corpsu' of the hub can't be loaded: OSError",
    ]
    (here / "corpus").mkdir()
    for answer in (missing, ConnectionError()):
        hub.answer = answer
        with pytest.raises(UserError, match=r"; did you mean the file 'corpus'\?$"):
            rows_of("corpsu")


def test_the_real_library_offline_is_understood(here: Path) -> None:
    """The exceptions that the stand-in above imitates are those of the installed library."""
    code = (
        "from ptm_lightning.data.sources import *\n"
        "try: list(read(resolve(['nobody/nothing'], '--data.train')[0], '--data.train'))\n"
        "except ValueError as error: print(error)\n"
        "import datasets; print(datasets.exceptions.DatasetNotFoundError.__name__)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(here)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.splitlines() == [
        "--data.train: 'nobody/nothing' is no file here, and the hub can't be reached for it; "
        "connect, or download it elsewhere and give its files",
        "DatasetNotFoundError",
    ]


def test_plain_files_need_no_library(here: Path) -> None:
    Path("a.csv").write_text("text\nx\n")
    code = (
        "import sys; from ptm_lightning.data.sources import *;"
        "print(list(read(resolve(['a.csv'], 'f')[0], 'f')));"
        "print({'torch', 'datasets', 'pyarrow', 'numpy'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[{'text': 'x'}]\nset()"
