"""Runs that are resumed by the command line: what is taken from them, said or refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_run import fit, metrics

from ptm_lightning.__main__ import main
from ptm_lightning.errors import UserError
from ptm_lightning.fitting import _prepare_kernels
from ptm_lightning.levers import is_on, switch_off
from ptm_lightning.run import read_config


def test_resume_goes_on_with_more_steps(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run", "--model.schedule=constant") == 0
    capfd.readouterr()
    assert main(["fit", "--resume", "run", "--trainer.max_steps=8"]) == 0
    assert fit(corpus, "--trainer.max_steps=8", "--run_dir=whole", "--model.schedule=constant", "--model.warmup=0") == 0
    steps = {int(row["step"]) for row in metrics(here / "run") if row["metric"] == "val/loss"}
    assert {4, 8} <= steps


def test_resume_says_that_the_schedule_moves(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    capfd.readouterr()
    assert main(["fit", "--resume=run"]) == 0
    assert "schedule now" not in capfd.readouterr().err
    assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
    assert "the schedule now ends at step 6, before it was 4" in capfd.readouterr().err.splitlines()


def test_resume_takes_the_threads_of_the_run(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = torch.get_num_threads()
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", str(before + 1))
        torch.set_num_threads(before + 1)
        assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
        assert f"continues, not bit-identical: threads: {before} then, {before + 1} now" in capfd.readouterr().err
        monkeypatch.delenv("OMP_NUM_THREADS")
        torch.set_num_threads(before)
        assert main(["fit", "--resume=run", "--trainer.max_steps=8"]) == 0
        assert torch.get_num_threads() == before + 1
        assert "not bit-identical" not in capfd.readouterr().err
    finally:
        torch.set_num_threads(before)


def test_levers_stay_off_as_long_as_the_run_lasts(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    def kernels() -> dict[str, str]:
        return read_config(here / "run")["environment"]["kernels"]

    try:
        assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run", "--off", "dropout", "matmul") == 0
        assert [name for name in ("attention", "dropout", "matmul") if not is_on(name)] == ["dropout", "matmul"]
        assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
        assert (kernels()["dropout"], kernels()["matmul"], kernels()["attention"]) == ("default", "default", "own")
        assert not is_on("dropout")
        capfd.readouterr()
        assert main(["fit", "--resume=run", "--trainer.max_steps=8", "--off", "attention"]) == 2
        assert "--off: a run goes on with the kernels that it began with; leave it out" in capfd.readouterr().err
        assert main(["fit", "--off", "attentoin"]) == 2
        assert "argument --off: invalid choice: 'attentoin'" in capfd.readouterr().err
        assert fit(corpus, "--trainer.max_steps=4", "--run_dir=other") == 0
        assert is_on("dropout")
    finally:
        switch_off([])


def test_on_cuda_only_attention_can_be_left():
    cuda = torch.device("cuda")
    try:
        assert _prepare_kernels([], {}, cuda) == {"attention": "own"}
        assert _prepare_kernels(["attention"], {}, cuda) == {"attention": "default"}
        assert _prepare_kernels([], {"attention": "own"}, cuda) == {"attention": "own"}
        assert _prepare_kernels([], {"attention": "default"}, cuda) == {"attention": "default"}
        with pytest.raises(UserError, match="--off dropout: it is off on cuda anyway; leave it out"):
            _prepare_kernels(["attention", "dropout"], {}, cuda)
        with pytest.raises(UserError, match="--off attention: it is off on mps anyway; leave it out"):
            _prepare_kernels(["attention"], {}, torch.device("mps"))
    finally:
        switch_off([])


def test_resume_refuses_another_setting_with_both_values(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=2", "--run_dir=run") == 0
    capfd.readouterr()
    assert main(["fit", "--resume", "run", "--model.learning_rate=0.5"]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: --model.learning_rate: 0.5 now, None in run; leave it out to go on")


def test_a_warning_is_one_line(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=2", "--run_dir=run") == 0
    newest = sorted((here / "run/checkpoints").glob("step=*.ckpt"))[-1]
    newest.write_bytes(b"torn")
    capfd.readouterr()
    program = [sys.executable, "-m", "ptm_lightning"]
    assert subprocess.run([*program, "fit", "--resume=run", "--trainer.max_steps=3"]).returncode == 0
    assert (
        "warning: run/checkpoints: this run starts from step 1; newer checkpoints are set aside as "
        "step=00000002.ckpt.old"
    ) in capfd.readouterr().err.splitlines()
