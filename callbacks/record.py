"""The record of a run: metrics.csv and samples.jsonl, on disk at once, right after a kill and a resume."""

import csv
import io
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from ptm_lightning.files import append, atomic_write

HEADER = ["step", "tokens", "metric", "value"]


class StepLines:
    """A text file of lines that each belong to an optimizer step.

    Args:
        path: The file; it is made with the first line.
        header: What stands in front of the lines.
        step_of: The step of a line; none if it is the header, or torn.
    """

    def __init__(self, path: Path, header: str, step_of: Callable[[str], int | None]) -> None:
        self.path = path
        self._header = header
        self._step_of = step_of
        self._begun = False

    def append(self, lines: str, what: str) -> None:
        """Adds lines for good. Without space for them there is a warning, and none of them is written.

        Args:
            lines: Each with its newline.
            what: What they are, for the warning.
        """
        try:
            if not self._begun:
                self._keep(lambda step: True)
                self._begun = True
            append(self.path, lines)
        except OSError as error:
            rank_zero_warn(f"{what} not written to {self.path} ({error.strerror}); training goes on")

    def truncate(self, last: int) -> None:
        """Drops the lines of steps after the last, if the file is there."""
        if self.path.exists():
            self._keep(lambda step: step <= last)

    def _keep(self, wanted: Callable[[int], bool]) -> None:
        """Leaves some of the lines, and none that a kill has torn."""
        text = self.path.read_text("utf-8", errors="replace") if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1].split("\n")[:-1]  # other line breaks may stand in a cell
        kept = [line for line in whole if (step := self._step_of(line)) is not None and wanted(step)]
        atomic_write(self.path, self._header + "".join(f"{line}\n" for line in kept))


class CSVRecord(Logger):
    """Writes `<save_dir>/metrics.csv` with the columns step, tokens, metric and value, and tables to `samples.jsonl`.

    Lightning's own deletes the file on resume. This one goes on where the checkpoint is: `truncate` drops what a killed
    run wrote after it.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._folder = Path(save_dir)
        self._metrics = StepLines(self._folder / "metrics.csv", _lines([HEADER]), _step_of_metric)
        self._samples = StepLines(self._folder / "samples.jsonl", "", _step_of_sample)

    @property
    def name(self) -> str:
        """Lightning makes a folder of it; there is none."""
        return ""

    @property
    def version(self) -> str:
        """Lightning makes a folder of it; there is none."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the config is written elsewhere."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a line for each metric.

        Args:
            metrics: By name. "tokens", how many were seen in training, becomes the column; "epoch" is left out.
            step: The optimizer steps done.
        """
        tokens = str(int(metrics["tokens"])) if "tokens" in metrics else ""
        rows = [
            [str(step or 0), tokens, name, repr(float(value))]
            for name, value in metrics.items()
            if name not in ("tokens", "epoch")
        ]
        self._metrics.append(_lines(rows), f"metrics at step {step}")

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: Sequence[Sequence[Any]], step: int | None = None) -> None:
        """Appends a line of JSON for each row: its cells by column, after "step" and "table".

        Args:
            key: The table's name.
            columns: Names of the columns.
            data: The rows.
            step: The optimizer steps done.
        """
        marks = {"step": step or 0, "table": key}  # in front, and not to be overwritten by a column
        rows = [marks | dict(zip(columns, row, strict=True)) | marks for row in data]
        lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
        self._samples.append("".join(lines), f"{key} at step {step}")

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Drops what is newer than a checkpoint, before going on from it.

        Args:
            step: The checkpoint's; -1 to begin anew.
        """
        self._metrics.truncate(step)
        self._samples.truncate(step)


def _lines(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _step_of_metric(line: str) -> int | None:
    cells = next(csv.reader([line]), [])
    return int(cells[0]) if len(cells) == len(HEADER) and cells[0].isdigit() else None


def _step_of_sample(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None
