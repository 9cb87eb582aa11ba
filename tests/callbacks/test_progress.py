"""The bar in a terminal and the lines elsewhere."""

import logging
import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from ptm_lightning.callbacks import Progress
from ptm_lightning.callbacks import progress as progress_module
from ptm_lightning.callbacks.human import compact, duration
from ptm_lightning.callbacks.progress import result_line, status_line, terminal
from tiny_mlm import make, trainer_of


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (999.6, "1.00 k"), (11_234, "11.2 k"), (224_000, "224 k"), (1.2996e9, "1.30 G")],
)
def test_compact(number: float, text: str):
    assert compact(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.6, "1m00s"), (200, "3m20s"), (8040, "2h14m"), (86399.9, "1d00h"), (273600, "3d04h")],
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text


def test_status_line():
    line = status_line(1200, 10_000, 3.21449, 11_234.0, 8040.0)
    assert line == "step 1200/10000  12 %  loss 3.214  11.2k tok/s  left 2h14m"
    assert status_line(0, 10_000, None, None, None) == "step 0/10000  0 %"
    assert status_line(9_999, 10_000, None, None, None) == "step 9999/10000  99 %"


def test_result_line():
    metrics = {"val/accuracy": 0.4121, "val/perplexity": 24.779, "val/loss": 3.21, "train/loss": 9.0}
    line = result_line("validation", 400, metrics, "val/")
    assert line == "validation at step 400: loss 3.210  perplexity 24.8  accuracy 0.412"


class Chatty(Callback):
    """Prints and logs in the midst of training."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 5:
            print("printed on the error stream", file=sys.stderr)
            logging.getLogger("chatty").warning("logged")


def fit(corpus: Path, folder: Path, *callbacks: Callback, **changes: Any) -> Any:
    task, data = make(corpus)
    changes = {"val_check_interval": 6, "check_val_every_n_epoch": None} | changes
    trainer_of(folder, *callbacks, **changes).fit(task, data)
    return task


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "terminal", lambda: None)


def masked(text: str) -> list[str]:
    """The lines of progress, with what differs from run to run replaced."""
    text = re.sub(r"[\d.]+k? tok/s", "RATE", re.sub(r"left \w+", "left TIME", text))
    text = re.sub(r"(?<=loss )\d\.\d{3}|(?<=perplexity )\d+(\.\d)?|(?<=accuracy )\d\.\d{3}", "N", text)
    text = re.sub(r"(?<=loss_new_sentences )\d\.\d{3}|(?<=bits_per_byte )\d\.\d{3}", "N", text)
    return [line for line in text.splitlines() if line.startswith(("step", "validation", "test"))]


VALIDATION = "validation at step {}: loss N  perplexity N  accuracy N  bits_per_byte N  loss_new_sentences N"


@pytest.mark.usefixtures("no_terminal")
def test_lines_in_a_pipe(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress_module, "SHARE_BETWEEN_LINES", 0.25)
    fit(corpus, tmp_path, Progress(), max_steps=14)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert masked(shown.err) == [
        "step 4/14  28 %  loss N  RATE  left TIME",
        VALIDATION.format(6),
        "step 8/14  57 %  loss N  RATE  left TIME",
        "step 12/14  85 %  loss N  RATE  left TIME",
        VALIDATION.format(12),
        "step 14/14  100 %  loss N  RATE  left TIME",
    ]
    assert "left 0s" in shown.err.splitlines()[-1]


@pytest.mark.usefixtures("no_terminal")
def test_a_short_run_has_one_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fit(corpus, tmp_path, Progress(), limit_val_batches=0)
    assert masked(capsys.readouterr().err) == ["step 12/12  100 %  loss N  RATE  left TIME"]


@pytest.mark.usefixtures("no_terminal")
def test_the_loss_is_what_the_task_has_just_logged(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    logged: list[float] = []

    def note(loggers: Any, metrics: dict[str, float], step: int) -> None:
        logged.append(metrics["train/loss"])

    monkeypatch.setattr("ptm_lightning.records.write_records", note)
    fit(corpus, tmp_path, Progress(), limit_val_batches=0, log_every_n_steps=4)
    assert len(logged) == 3
    assert f"loss {logged[-1]:.3f}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize(("steps", "expected"), [(-1, ["validation at step 0:"]), (1, []), (0, [])])
def test_a_whole_validation_before_training_counts(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, expected: list[str]
):
    fit(corpus, tmp_path, Progress(), max_steps=2, num_sanity_val_steps=steps, val_check_interval=100)
    lines = masked(capsys.readouterr().err)
    assert [line[:21] for line in lines] == [*expected, "step 2/2  100 %  loss"]


@pytest.mark.usefixtures("no_terminal")
def test_validate_has_its_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    task, data = make(corpus)
    trainer_of(tmp_path, Progress()).validate(task, data, verbose=False)
    assert masked(capsys.readouterr().err) == [VALIDATION.format(0)]


def in_terminal(monkeypatch: pytest.MonkeyPatch, run: Callable[[], None]) -> str:
    """What `run` writes to an error stream that is a pseudo-terminal."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    received: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 4096):
                received.append(piece)
        except OSError:  # Linux's way of saying that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            run()
    finally:
        reader.join(10)
        os.close(ours)
    return b"".join(received).decode()


def screen(text: str) -> list[str]:
    """What a terminal shows after these characters, as far as rich uses its commands."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.startswith("\x1b"):
            count = int(re.sub(r"\D", "", piece) or 1)
            if piece.endswith("A"):
                row -= count
            elif piece == "\x1b[2K":
                lines[row] = ""
        else:
            lines[row] = lines[row].ljust(column)[:column] + piece + lines[row][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


def test_the_bar_in_a_terminal(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_UPDATES", 0.0)
    loggers = logging.getLogger("chatty")
    kept: dict[str, Any] = {}

    def run() -> None:
        kept["handler"] = logging.StreamHandler()
        kept["stream"] = sys.stderr
        loggers.addHandler(kept["handler"])
        try:
            fit(corpus, tmp_path, Progress(), Chatty())
        finally:
            loggers.removeHandler(kept["handler"])
        assert sys.stderr is kept["stream"], "the stream must be given back"

    text = in_terminal(monkeypatch, run)
    lines = screen(text)
    bar = re.sub(r"[━╸╺ ]+(?=step)", "BAR ", lines[-1])
    assert masked(bar.removeprefix("BAR ")) == ["step 12/12  100 %  loss N  RATE  left TIME"]
    assert [line for line in lines[:-1] if "BAR" in line or "━" in line] == []
    shown = [line for line in lines if line.startswith(("printed", "logged", "validation"))]
    assert shown[:2] == ["printed on the error stream", "logged"]
    assert masked("\n".join(shown[2:])) == [VALIDATION.format(6), VALIDATION.format(12)]
    assert kept["handler"].stream is kept["stream"]
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor must come back"
    assert "validation" in re.sub(r"validation at step", "", text), "batches of validation are shown"
    assert capsys.readouterr().out == ""


def test_the_bar_is_drawn_now_and_then_only(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_UPDATES", 1e9)
    text = in_terminal(monkeypatch, lambda: fit(corpus, tmp_path, Progress(), limit_val_batches=0))
    assert set(re.findall(r"step (\d+)/12", text)) == {"0", "12"}


def test_an_error_gives_the_terminal_back(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            raise RuntimeError("planned")

    def run() -> None:
        before = sys.stderr
        with pytest.raises(RuntimeError, match="planned"):
            fit(corpus, tmp_path, Progress(), Fails())
        assert sys.stderr is before

    assert in_terminal(monkeypatch, run).count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("variables", "drawn"), [({}, True), ({"CI": "1"}, False), ({"TERM": "dumb"}, False), ({"CI": ""}, True)]
)
def test_where_a_bar_is_drawn(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], drawn: bool):
    def look() -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert (terminal() is sys.stderr) is drawn

    in_terminal(monkeypatch, look)


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal() is None
