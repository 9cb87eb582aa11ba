"""Predictions are written in order, batch by batch; nothing is held, read ahead, or left half done."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ptm_lightning.tasks import MaskedLM

from ptm_lightning.__main__ import main
from ptm_lightning.data import module
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


def test_each_batch_is_written_before_the_next_one_is_read(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    read, seen = [], []
    texts, step = module.predict_texts, MaskedLM.predict_step

    def counted(*args: Any) -> Iterator[Text]:
        for text in texts(*args):
            read.append(text.id)
            yield text

    def noted(self: MaskedLM, *args: Any) -> Any:
        seen.append((len(read), len(rows(here / "out.jsonl.partial"))))
        return step(self, *args)

    monkeypatch.setattr(module, "predict_texts", counted)
    monkeypatch.setattr(MaskedLM, "predict_step", noted)
    assert predict(trained, "--data.predict=in.txt", "--data.batch_size=2", "--output=out.jsonl") == 0
    assert seen == [(2, 0), (4, 2), (6, 4), (8, 6), (9, 8)]
    assert [row["id"] for row in rows(here / "out.jsonl")] == [str(i) for i in range(9)]
    assert not (here / "out.jsonl.partial").exists()


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
    assert "the first 2 predictions are in out.jsonl.partial" in screen
    assert screen[-1] == "error: --data.predict: text 2 has no [MASK] to fill: 'no mask'"
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
    assert predict(trained, "--data.predict=in.txt", *more) == 2
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
