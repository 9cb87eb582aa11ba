"""Predictions are written in order, batch by batch; nothing is held, read ahead, or left half done."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ptm_lightning.tasks import MaskedLM

from ptm_lightning import part_file
from ptm_lightning.__main__ import main
from ptm_lightning.data import module
from ptm_lightning.data import predict as inputs
from ptm_lightning.data.predict import Text

SIZE = [
    "--model.overrides={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}",
    "--data.vocab_size=600",
    "--data.max_length=32",
    "--data.batch_tokens=512",
    "--data.validation_share=0.1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        more = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--run_dir", str(folder)]
        assert main(["fit", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE, *more]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("".join(f"number {i} is [MASK]\n\n" for i in range(9)))
    return tmp_path


def predict(trained: Path, *more: str) -> int:
    return main(["predict", "--run_dir", str(trained), *more])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_trainings_small_batches_are_not_those_of_predictions(
    trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(trained, "run")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["data"] |= {"batch_size": 2, "batch_tokens": None}
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    sizes, step = [], MaskedLM.predictions

    def counted(self: MaskedLM, batch: Any) -> Any:
        sizes.append(len(batch["texts"]))
        return step(self, batch)

    monkeypatch.setattr(MaskedLM, "predictions", counted)
    assert predict(Path("run"), "--data.predict=in.txt", "--output=out.jsonl") == 0
    assert predict(Path("run"), "--data.predict=in.txt", "--output=other.jsonl", "--data.batch_size=5") == 0
    assert sizes == [9, 5, 4]


def test_each_window_is_written_before_the_next_one_is_read(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    read, seen = [], []
    texts, step = module.predict_texts, MaskedLM.predictions

    def counted(*args: Any) -> Iterator[Text]:
        for text in texts(*args):
            read.append(text.id)
            yield text

    def noted(self: MaskedLM, *args: Any) -> Any:
        seen.append((len(read), len(rows(here / "out.jsonl.partial"))))
        return step(self, *args)

    monkeypatch.setattr(module, "predict_texts", counted)
    monkeypatch.setattr(MaskedLM, "predictions", noted)
    monkeypatch.setattr(inputs, "WINDOW", 2)
    assert predict(trained, "--data.predict=in.txt", "--data.batch_size=2", "--output=out.jsonl") == 0
    assert seen == [(4, 0), (4, 0), (8, 4), (8, 4), (9, 8)]
    assert [row["id"] for row in rows(here / "out.jsonl")] == [str(i) for i in range(9)]
    assert sorted(path.name for path in here.iterdir()) == ["in.txt", "out.jsonl"]


def test_an_object_of_predictions_by_id(trained: Path, here: Path):
    for name in ("out.json", "out.jsonl"):
        assert predict(trained, "--data.predict=in.txt", "--data.batch_size=2", f"--output={name}") == 0
    by_id = {row["id"]: row["prediction"] for row in rows(here / "out.jsonl")}
    assert json.loads((here / "out.json").read_text()) == by_id
    assert len(by_id) == 9


def test_what_was_predicted_before_an_error_is_kept_aside(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    (here / "out.jsonl").write_text("old\n")
    (here / "in.txt").write_text("a [MASK]\n\nb [MASK]\n\nno mask\n")
    assert predict(trained, "--data.predict=in.txt", "--data.batch_size=1", "--output=out.jsonl") == 2
    screen = capfd.readouterr().err.splitlines()
    assert "the first 2 predictions are in out.jsonl.partial; the same command goes on behind them" in screen
    assert screen[-1] == "error: --text or --data.predict: text 2 has no [MASK] to fill: 'no mask'"
    assert len(rows(here / "out.jsonl.partial")) == 2
    assert (here / "out.jsonl").read_text() == "old\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output=none/out.jsonl"], "--output none/out.jsonl: can't be written (No such file or directory); name "),
        (["--output=."], "--output .: is a folder; name a file"),
        (["--trainer.devices=2", "--trainer.accelerator=cpu"], "--trainer.devices 2: predictions are written by one "),
        (["--data.predict=bad.jsonl", "--output=out.jsonl"], "--data.predict: bad.jsonl:1: no column 'text'; the col"),
    ],
)
def test_a_mistake_leaves_nothing(
    more: list[str], message: str, trained: Path, here: Path, capfd: pytest.CaptureFixture[str]
):
    (here / "bad.jsonl").write_text('{"body": "x"}\n')
    before = sorted(here.iterdir())
    given = [] if any(argument.startswith("--data.predict") for argument in more) else ["--data.predict=in.txt"]
    assert predict(trained, *given, *more) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert sorted(here.iterdir()) == before


def test_standard_input_is_answered_line_by_line(trained: Path, here: Path):
    program = [sys.executable, "-m", "ptm_lightning", "predict", "--run_dir", str(trained), "--data.predict", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*program, "--data.batch_size=1"], text=True, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        for line, id_, text in [
            ("a plain [MASK]", "0", "a plain [MASK]"),
            ('{"text": "a [MASK] row", "id": "x"}', "x", "a [MASK] row"),
            ("\nanother é [MASK]", "2", "another é [MASK]"),
        ]:
            print(line, file=server.stdin, flush=True)
            answer = json.loads(server.stdout.readline())  # before anything more is written
            assert (answer["id"], answer["text"]) == (id_, text)
        print('{"text": ', file=server.stdin, flush=True)
        last = server.stderr.read().splitlines()[-1]
    assert server.returncode == 2
    assert last == ("error: --data.predict: standard input:5: broken JSON (Expecting value, column 9); repair the line")


def test_standard_input_is_for_predictions_only(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--data.train", "-"]) == 2
    message = "error: --data.train: standard input can't be read twice; write it to a file first"
    assert capfd.readouterr().err.splitlines()[-1] == message


class Stop(Exception):
    pass


def raises_at(number: int, function: Any) -> Any:
    """The function, but its nth call (from 0) raises before anything is done."""
    calls = iter(range(100))

    def stopping(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise Stop
        return function(*args, **kwargs)

    return stopping


def stopped(where: tuple[Any, str], number: int, trained: Path, *more: str) -> None:
    """Predicts until the nth call of a function, and leaves what is there as if it had been killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*where, raises_at(number, getattr(*where)))
        patch.setattr(part_file.PartFile, "remove", lambda self: None)
        with pytest.raises(Stop):
            predict(trained, *more)


@pytest.fixture
def long_and_short(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eleven texts of many lengths, in windows of four; the flags to predict for them."""
    texts = [f"{'so ' * (7 * i % 11)}{'ö' * (i % 2)} number {i} is [MASK]" for i in range(11)]
    (here / "in.jsonl").write_text("".join(json.dumps({"id": f"x{i}", "text": t}) + "\n" for i, t in enumerate(texts)))
    monkeypatch.setattr(inputs, "WINDOW", 2)
    return ["--data.predict=in.jsonl", "--data.batch_size=2"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.json"])
@pytest.mark.parametrize(
    ("where", "number", "held"),
    [
        ((MaskedLM, "predictions"), 1, 0),  # in the first window
        ((MaskedLM, "predictions"), 3, 4),
        ((part_file.PartFile, "note"), 0, 0),  # a window is written, but it isn't noted
        ((part_file.PartFile, "note"), 1, 4),
        ((part_file.PartFile, "note"), 2, 8),
        ((part_file.PartFile, "become"), 0, 11),  # all is written
    ],
)
def test_a_stopped_command_goes_on_where_it_stopped(
    trained: Path, here: Path, long_and_short: list[str], capfd: pytest.CaptureFixture[str],
    name: str, where: tuple[Any, str], number: int, held: int,
):  # fmt: skip
    assert predict(trained, *long_and_short, f"--output=whole{name}") == 0
    stopped(where, number, trained, *long_and_short, f"--output={name}")
    assert not (here / name).exists()
    with open(here / f"{name}.partial", "a", encoding="utf-8") as torn:
        torn.write('{"id": "x')
    capfd.readouterr()
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        predictions = MaskedLM.predictions
        patch.setattr(
            MaskedLM,
            "predictions",
            lambda self, batch: asked.extend(id_ for id_, _ in batch["texts"]) or predictions(self, batch),
        )
        assert predict(trained, *long_and_short, f"--output={name}") == 0
    assert sorted(asked) == sorted(f"x{i}" for i in range(held, 11))
    message = f"{name}.partial: has the first {held} predictions; going on behind them"
    assert (message in capfd.readouterr().err) == (held > 0)
    assert (here / name).read_bytes() == (here / f"whole{name}").read_bytes()
    assert sorted(path.name for path in here.iterdir()) == sorted(["in.jsonl", "in.txt", name, f"whole{name}"])


def test_what_comes_later_may_be_mended(
    trained: Path, here: Path, long_and_short: list[str], capfd: pytest.CaptureFixture[str]
):
    stopped((MaskedLM, "predictions"), 3, trained, *long_and_short, "--output=out.jsonl")
    with open(here / "in.jsonl", "a") as file:
        file.write('{"text": "one [MASK] more", "id": "x11"}\n')
    capfd.readouterr()
    assert predict(trained, *long_and_short, "--output=out.jsonl") == 0
    assert "going on behind them" in capfd.readouterr().err
    assert predict(trained, *long_and_short, "--output=whole.jsonl") == 0
    assert (here / "out.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (["--data.max_length=31"], "data.max_length"),
        (["--checkpoint=last.ckpt"], "files."),
        (["--data.predict=in.txt"], "data.predict"),
        (["--text=a [MASK]"], "data.text"),
    ],
    ids=lambda value: "".join(value),
)
def test_another_command_starts_anew(
    trained: Path, here: Path, long_and_short: list[str], capfd: pytest.CaptureFixture[str], more: list[str], key: str
):
    stopped((MaskedLM, "predictions"), 3, trained, *long_and_short, "--output=out.jsonl")
    shutil.copy(next((trained / "checkpoints").glob("*.ckpt")), here / "last.ckpt")
    capfd.readouterr()
    other = [*(flag for flag in long_and_short if flag.split("=")[0] not in "".join(more)), *more]
    assert predict(trained, *other, "--output=out.jsonl") == 0
    assert f"out.jsonl.partial: is of another command ({key}" in (screen := capfd.readouterr().err)
    assert "; starting anew" in screen
    assert predict(trained, *other, "--output=whole.jsonl") == 0
    assert (here / "out.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()


def test_a_killed_command_goes_on_with_the_same_standard_input(trained: Path, here: Path):
    command = [sys.executable, "-m", "ptm_lightning", "predict", "--run_dir", str(trained), "--data.predict", "-"]
    command += ["--data.batch_size=1", "--output=out.jsonl"]
    lines = [f"{i} is [MASK]\n" for i in range(5)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stdin is not None
        killed.stdin.write("".join(lines[:3]))
        killed.stdin.flush()
        note, deadline = here / "out.jsonl.partial.json", time.monotonic() + 120
        while not (note.exists() and json.loads(note.read_text())["done"][0] == 3):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
    other = subprocess.run(command, input="another [MASK]\n" * 5, capture_output=True, text=True)
    assert other.returncode == 2
    assert "the first 3 inputs aren't those that --output has predictions for" in other.stderr
    again = subprocess.run(command, input="".join(lines), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "has the first 3 predictions" in again.stderr
    found = rows(here / "out.jsonl")
    assert [(row["id"], row["text"]) for row in found] == [(str(i), line.strip()) for i, line in enumerate(lines)]
