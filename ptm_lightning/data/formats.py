"""Files of text and tables as rows, one at a time, so that a corpus larger than memory can be read.

Each reader takes a path and the beginning of its error messages, and yields (place, row). A place is the line number in
the file, or a word such as " row 3" where a format has no lines of its own.
"""

import csv
import gzip
import io
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from ptm_lightning.data.class_names import parquet_class_names, with_class_names
from ptm_lightning.data.conll import conll_sentences
from ptm_lightning.data.squad import unnested
from ptm_lightning.errors import UserError

Row = dict[str, Any]
Place = int | str
Placed = Iterator[tuple[Place, Row]]
SplitText = Literal["blank_line", "line"]


def as_text(value: Any) -> Any:
    """The text in a column: tokens with spaces between, what is said in a conversation line by line, else as it is."""
    if not isinstance(value, list):
        return value
    said = [part["content"] for part in value if isinstance(part, dict) and isinstance(part.get("content"), str)]
    if said and len(said) == len(value):
        return "\n".join(said)
    return " ".join(value) if all(isinstance(token, str) for token in value) else value


LONGEST_DOCUMENT = 256 << 20  # bytes; a file without blank lines would fill the memory before anything is said
BUFFER = 1 << 20  # bytes
PARQUET_BATCH = 256  # rows


def _lines(path: Path, where: str) -> Iterator[bytes]:
    """The lines of a plain or gzipped file, ends included, without a byte-order mark."""
    try:
        with open(path, "rb", buffering=0) as plain:
            raw = cast(io.RawIOBase, gzip.GzipFile(fileobj=plain)) if path.suffix.lower() == ".gz" else plain
            file = io.BufferedReader(raw, BUFFER)  # GzipFile's own lines are several times slower
            if first := file.readline():
                yield first.removeprefix(BOM_UTF8)
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{where}: the gzip data are broken ({error}); get the file again, gzip -t checks it"
        ) from error
    except OSError as error:
        raise UserError(f"{where}: can't be read ({error.strerror or error}); check the file and its disk") from error


def _decode(data: bytes, line: int, where: str) -> str:
    """UTF-8 bytes that begin at a line, as text; newlines as in Unix."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line += before.count(b"\n")
        position = error.start - before.rfind(b"\n")
        raise UserError(
            f"{where}:{line}: byte {position} of the line (0x{data[error.start]:02x}) is not UTF-8; "
            "convert it with iconv -f ITS_ENCODING -t UTF-8"
        ) from error
    return text.replace("\r\n", "\n") if "\r" in text else text


def _documents(path: Path, where: str) -> Placed:
    """Documents split at lines of nothing but white space."""
    start, size = 1, 0
    held: list[bytes] = []
    for number, line in enumerate(_lines(path, where), 1):
        if line.isspace():
            if held:
                yield start, {"text": _decode(b"".join(held), start, where).removesuffix("\n")}
            held, size = [], 0
            continue
        if not held:
            start = number
        held.append(line)
        size += len(line)
        if size > LONGEST_DOCUMENT:
            raise UserError(
                f"{where}:{start}: more than {LONGEST_DOCUMENT >> 20} MB without a blank line; "
                "split the documents by blank lines, or set split_text to line if each line is a document"
            )
    if held:
        yield start, {"text": _decode(b"".join(held), start, where).removesuffix("\n")}


def _text_lines(path: Path, where: str) -> Placed:
    """One document a line."""
    for number, line in enumerate(_lines(path, where), 1):
        yield number, {"text": _decode(line, number, where).removesuffix("\n")}


def _conll(path: Path, where: str) -> Placed:
    """The first column is the token, the last its tag."""
    lines = (_decode(line, number, where) for number, line in enumerate(_lines(path, where), 1))
    for sentence in conll_sentences(lines):
        rows = [columns for _, columns in sentence]
        tags = {"tags": [columns[-1] for columns in rows]} if min(map(len, rows)) > 1 else {}
        yield sentence[0][0], {"tokens": [columns[0] for columns in rows]} | tags


def _loads(text: str, line: int, where: str) -> Any:
    """JSON text that begins at a line, as a value."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        raise UserError(f"{where}:{line}: broken JSON ({error.msg}, column {error.colno}); repair the line") from error


def _objects(values: Iterable[tuple[Place, Any]], where: str) -> Placed:
    """The same values, each checked to be a JSON object."""
    for place, value in values:
        if not isinstance(value, dict):
            raise UserError(
                f'{where}:{place}: {json.dumps(value)[:40]} is not a row; write an object, {{"text": "..."}}'
            )
        yield place, value


def _json_lines(numbered: Iterable[tuple[int, bytes]], where: str) -> Placed:
    """One JSON object a line; blank lines don't count."""
    values = ((n, _loads(_decode(line.rstrip(), n, where), n, where)) for n, line in numbered if not line.isspace())
    return _objects(values, where)


def _jsonl(path: Path, where: str) -> Placed:
    return _json_lines(enumerate(_lines(path, where), 1), where)


def read_stream(lines: Iterable[bytes], where: str, text_column: str) -> Placed:
    """Rows of a stream, each when it comes: a line that begins with { is a JSON object, any other is a text.

    Args:
        lines: With their ends; blank ones don't count.
        where: The beginning of error messages.
        text_column: What the text of a plain line is called.

    Returns:
        An iterator of (line number, row).

    Raises:
        UserError: While iterating, for lines that are broken or not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        if line.startswith(b"{"):
            yield from _json_lines([(number, line)], where)
        elif not line.isspace():
            yield number, {text_column: _decode(line, number, where).removesuffix("\n")}


def _begins_json_lines(line: bytes) -> bool:
    """Whether a file's first line is a row, rather than the beginning of one value that fills the file."""
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _json(path: Path, where: str) -> Placed:
    """A list of objects, {"data": [...]} (also of SQuAD's articles), one object, or JSON lines.

    Only JSON lines are read in pieces.
    """
    numbered = enumerate(_lines(path, where), 1)
    first = next(((n, line) for n, line in numbered if not line.isspace()), None)
    if first is None:
        return
    number, line = first
    if _begins_json_lines(line):
        yield from _json_lines(chain([first], numbered), where)
        return
    everything = b"".join(chain([line], (rest for _, rest in numbered)))
    value = _loads(_decode(everything, number, where), number, where)
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    rows = value if isinstance(value, list) else [value]
    yield from unnested(_objects(((f" row {n}", row) for n, row in enumerate(rows, 1)), where), where)


def _header(cells: list[str], line: int, where: str) -> list[str]:
    """The first row of a table, each name once."""
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}:{line}: the column '{twice}' stands there twice; rename one")
    return cells


def _table(path: Path, where: str, delimiter: str) -> Placed:
    """A table with a header; quoted cells may hold newlines."""
    csv.field_size_limit(LONGEST_DOCUMENT)  # the default, 128 KiB, is shorter than many documents
    text = (_decode(line, n, where) for n, line in enumerate(_lines(path, where), 1))
    table = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = table.line_num + 1
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise UserError(
                f"{where}:{line}: {error}; put the cell in double quotes and double the quotes inside it"
            ) from error
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = _header(cells, line, where)
        elif len(cells) != len(header):
            raise UserError(
                f"{where}:{line}: {len(cells)} cells where the header has {len(header)}; "
                "quote a cell that holds the delimiter or a newline"
            )
        else:
            yield line, dict(zip(header, cells, strict=True))


def _parquet(path: Path, where: str) -> Placed:
    """Rows of a parquet file, by record batches."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = parquet_class_names(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f" row {number}", with_class_names(row, names) if names else row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{where}: the parquet data are broken ({reason}); get the file again") from error


READERS: dict[str, Callable[[Path, str], Placed]] = {
    ".txt": _documents,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".parquet": _parquet,
    ".conll": _conll,
}
SUPPORTED = ".txt, .jsonl, .json, .csv, .tsv, .conll (plain or .gz) or .parquet"


def format_of(path: Path) -> str | None:
    """The format of a file by its name.

    Args:
        path: The file; it need not exist.

    Returns:
        A key of `READERS`, or None for a name that no reader takes.
    """
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in READERS and not name.endswith(".parquet.gz") else None


def read_file(path: Path, where: str, split_text: SplitText, text_column: str = "text") -> Placed:
    """The rows of one file, as the file names them.

    Args:
        path: A file whose format `format_of` knows.
        where: The beginning of error messages: the flag and the file.
        split_text: How a .txt file is cut into documents.
        text_column: What a document of a .txt file is called.

    Returns:
        An iterator of (place, row); the place is a line number or a word such as " row 3".

    Raises:
        UserError: While iterating, for data that are broken or not UTF-8.
    """
    kind = format_of(path)
    assert kind is not None, path
    reader = _text_lines if kind == ".txt" and split_text == "line" else READERS[kind]
    placed = reader(path, where)
    return ((place, {text_column: row["text"]}) for place, row in placed) if kind == ".txt" else placed
