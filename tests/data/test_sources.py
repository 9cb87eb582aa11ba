"""Files, folders and globs as sources: every format gives back what was written."""

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from source_rows import FLAG, rows_of, texts_of

from ptm_lightning.data import builtin
from ptm_lightning.data.sources import Row, Source, content_key, fingerprint, read, resolve
from ptm_lightning.errors import UserError

TEXTS = [
    "One line.",
    "Two lines,\n  the second indented.",
    'Quotes " and, commas\tand tabs.',
    "Grüße, 世界 🎈",
    "x" * 200_000,
]


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


def test_plain_files_need_no_library(here: Path) -> None:
    Path("a.csv").write_text("text\nx\n")
    code = (
        "import sys; from ptm_lightning.data.sources import *;"
        "print(list(read(resolve(['a.csv'], 'f')[0], 'f')));"
        "print({'torch', 'datasets', 'pyarrow', 'numpy'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[{'text': 'x'}]\nset()"
