"""The record of a run: metrics.csv, one line per value, on disk at once, right after a kill and a resume."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from ptm_lightning.files import append, atomic_write

HEADER = ["step", "tokens", "metric", "value"]


class CSVRecord(Logger):
    """Writes `<save_dir>/metrics.csv` with the columns step, tokens, metric and value.

    Lightning's own deletes the file on resume. This one goes on where the checkpoint is: `truncate` drops what a killed
    run wrote after it.

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._begun = False

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
        return str(self._path.parent)

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
        try:
            if not self._begun:
                self._begin()
            append(self._path, _lines(rows))
        except OSError as error:
            rank_zero_warn(f"metrics at step {step} not written to {self._path} ({error.strerror}); training goes on")

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Drops what is newer than a checkpoint, before going on from it.

        Args:
            step: The checkpoint's; -1 to begin anew.
        """
        if self._path.exists():
            kept = [row for row in _read(self._path) if int(row[0]) <= step]
            atomic_write(self._path, _lines([HEADER, *kept]))

    def _begin(self) -> None:
        """Makes the file, or drops the line that a kill has torn."""
        rows = _read(self._path) if self._path.exists() else []
        atomic_write(self._path, _lines([HEADER, *rows]))
        self._begun = True


def _lines(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path) -> list[list[str]]:
    """The whole rows: four cells, and a newline behind them."""
    text = path.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.reader(whole.splitlines()) if len(row) == len(HEADER) and row[0].isdigit()]
