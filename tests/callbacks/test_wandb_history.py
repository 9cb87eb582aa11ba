"""A run that goes on in W&B, after a kill too: each step once."""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptm_lightning.callbacks.record import CSVRecord
from ptm_lightning.callbacks.wandb import Wandb
from ptm_lightning.callbacks.wandb_history import Sent, csv_rows, server_history, unsent
from wandb_runs import STEP, clean_environment, history, read, records, runs  # noqa: F401 - a fixture


def test_resume_goes_on_with_the_same_id_and_each_step_once(tmp_path: Path) -> None:
    first = Wandb(tmp_path, offline=True)
    for step in range(1, 6):
        first.log_metrics({"train/loss": 1 / step, "tokens": 10 * step}, step)
    first.finish()
    again = Wandb(tmp_path, offline=True)
    again.truncate(3)
    for step in range(4, 8):
        again.log_metrics({"train/loss": 1 / step, "tokens": 10 * step}, step)
        if step >= 5:
            again.log_metrics({"val/loss": step, "tokens": 10 * step}, step)
    again.log_metrics({"test/loss": 9.0, "tokens": 70}, 0)
    again.finish()
    assert first.version == again.version
    assert len(runs(tmp_path)) == 2
    assert {run.run_id for run in records(tmp_path, "run")} == {first.version}
    rows = history(tmp_path)
    assert [row[STEP] for row in rows] == sorted(row[STEP] for row in rows)
    assert [row[STEP] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6, 7]
    assert [row[STEP] for row in rows if "val/loss" in row] == [5, 6, 7]
    assert rows[-1] == {STEP: 7, "tokens": 70, "test/loss": 9.0}


def test_two_loggers_of_a_run_in_one_process_follow_each_other(tmp_path: Path) -> None:
    for last in (3, 5):
        logger = Wandb(tmp_path, offline=True)
        for step in range(1, last + 1):
            logger.log_metrics({"train/loss": 1 / step}, step)
    logger.finish()
    assert [row[STEP] for row in history(tmp_path)] == [1, 2, 3, 4, 5]


KILLED = """
import os, sys
from ptm_lightning.callbacks.record import CSVRecord
from ptm_lightning.callbacks.wandb import Wandb
loggers = [CSVRecord(sys.argv[1]), Wandb(sys.argv[1], offline=True)]
for step in range(1, 301):
    for logger in loggers:
        logger.log_metrics({"train/loss": 1 / step, "train/gradient_norm": step / 7, "tokens": 10 * step}, step)
import time; time.sleep(0.5)
os.kill(os.getpid(), 9)
"""


def test_what_a_kill_loses_is_sent_again_up_to_the_checkpoint(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    loggers = [CSVRecord(tmp_path), Wandb(tmp_path, offline=True)]
    for logger in loggers:
        logger.truncate(300)
    for step in range(301, 303):
        for logger in loggers:
            values = {"train/loss": 1 / step, "train/gradient_norm": step / 7, "tokens": 10 * step}
            logger.log_metrics(values, step)
    loggers[1].finish()  # type: ignore[union-attr]
    rows = []
    for run in runs(tmp_path):
        rows += list(torn_history(run))
    expected = [{STEP: n, "tokens": 10 * n, "train/loss": 1 / n, "train/gradient_norm": n / 7} for n in range(1, 303)]
    assert rows == expected


def torn_history(run: Path) -> Iterator[dict[str, Any]]:
    """The rows before the place where a kill tore the file."""
    [path] = run.glob("*.wandb")
    reader = read(path)
    while True:
        try:
            record = next(reader)
        except (StopIteration, AssertionError, struct.error):
            return
        row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        if row:
            yield {name: value for name, value in row.items() if not name.startswith("_")}


def test_unsent_is_what_comes_after_the_end() -> None:
    row = {"train/loss": 1, "val/loss": 2, "test/loss": 3}
    sent = Sent(5, frozenset({"train/loss"}))
    assert unsent(row, 6, sent) == row
    assert unsent(row, 5, sent) == {"val/loss": 2, "test/loss": 3}
    assert unsent(row, 4, sent) == {"test/loss": 3}


def test_the_servers_summary_tells_its_end() -> None:
    assert server_history({}) == Sent(-1, frozenset())
    assert server_history({STEP: 7, "a": 1}) == Sent(7, frozenset({STEP, "a"}))


def test_csv_rows_are_grouped_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,metric,value\n1,10,a,0.5\n1,10,b,nan\n2,,a,1.5\n3,30,a,2.5\n4,4")
    first, second = csv_rows(path, 2)
    assert first[:2] == (1, 10.0)
    assert first[2].keys() == {"a", "b"}
    assert second == (2, None, {"a": 1.5})
