"""What of a run W&B has already: read from its own files, to send each row once and none too few."""

import csv
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

STEP = "trainer/global_step"
"""The horizontal axis, by the name that Lightning's own logger gives it."""
BLOCK = 32768
"""Bytes of a block in a .wandb file, which is a LevelDB log."""


class Sent(NamedTuple):
    """How far a run's history goes."""

    step: int
    """The last step in it; -1 if it is empty."""
    names: frozenset[str]
    """What was recorded at that step."""


def unsent(values: Mapping[str, Any], step: int, sent: Sent) -> dict[str, Any]:
    """What of a row isn't in the history yet.

    Args:
        values: By name.
        step: The row's.
        sent: The history's end. Rows come in order, so all before it is there.

    Returns:
        All of it after the end, none before; test results always, for they belong to no moment of training.
    """
    return {
        name: value
        for name, value in values.items()
        if step > sent.step or (step == sent.step and name not in sent.names) or name.startswith("test/")
    }


def server_history(summary: Mapping[str, Any]) -> Sent:
    """How far the server's copy goes, from the summary that it sends when a run is resumed."""
    return Sent(int(summary[STEP]), frozenset(summary)) if STEP in summary else Sent(-1, frozenset())


def local_history(folder: Path, run_id: str) -> Sent:
    """How far the .wandb files of a run go, all its starts together.

    Args:
        folder: The run folder.
        run_id: W&B's.

    Returns:
        The end of what reached the disk.
    """
    last: int = -1
    names: set[str] = set()
    for path in folder.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb"):
        for record in read_records(path):
            row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            step = int(json.loads(row.get(STEP, "-1")))
            if step > last:
                last, names = step, set()
            if step == last:
                names |= row.keys()
    return Sent(last, frozenset(names))


def read_records(path: Path) -> Iterator[Any]:
    """The whole records of a .wandb file: a header of 7 bytes, then a LevelDB log. It ends where a kill tore it."""
    from wandb.proto import wandb_internal_pb2

    record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made while importing
    data, at, payload = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        body = data[at + 7 : at + 7 + length]
        if len(body) < length or zlib.crc32(body, zlib.crc32(data[at + 6 : at + 7])) != checksum:
            return
        payload, at = payload + body, at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record.FromString(payload)
            payload = b""


def ends(path: Path) -> bool:
    """Whether a .wandb file is whole, up to the end of its run."""
    return any(record.HasField("exit") for record in read_records(path))


def csv_rows(path: Path, until: int) -> Iterator[tuple[int, float | None, dict[str, float]]]:
    """The rows of `metrics.csv` up to a step.

    Args:
        path: The file, with the columns step, tokens, metric, value.
        until: The last step wanted.

    Yields:
        The step, the tokens seen if they are known, and the metrics by name.
    """
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 4 and row[0].isdigit() and int(row[0]) <= until]
    for (step, tokens), group in groupby(rows, itemgetter(0, 1)):
        yield int(step), float(tokens) if tokens else None, {name: float(value) for _, _, name, value in group}
