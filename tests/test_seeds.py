"""fit --seeds: a run for each seed, equal to one that is started by itself; stopped, gone on with, refused."""

import json
import os
import shutil
import signal
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from ptm_lightning.__main__ import main
from ptm_lightning.checkpoint import load_checkpoint, step_files
from ptm_lightning.run import newest, newest_unfinished, read_config, read_state, seeds_of
from ptm_lightning.seeds import best_metrics, runs_of
from ptm_lightning.testing_case import digest, tiny
from ptm_lightning.testing_texts import example

SETTINGS = [
    "--config=classification",
    "--data.train=rows.jsonl",
    f"--model.overrides={json.dumps(tiny('bert'))}",
    "--model.learning_rate=0.01",
    "--data.vocab_size=300",
    "--data.max_length=24",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=3",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    return tmp_path


def write_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(example(i)) + "\n" for i in range(60)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with a run of the seeds 0 and 1, `both`, and its last screen."""
    folder = tmp_path_factory.mktemp("seeds")
    write_rows(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        patch.chdir(folder)
        assert main(["fit", *SETTINGS, "--seeds=2", "--run_dir=both"]) == 0
    return folder


def weights(run: Path) -> str:
    return digest(load_checkpoint(list(step_files(run / "checkpoints").values())[-1])["state_dict"])


def test_each_seed_is_the_run_that_it_is_alone(trained: Path, here: Path):
    both = trained / "both"
    assert seeds_of(both) == [0, 1]
    assert runs_of(both) == [both / "seed_0", both / "seed_1"]
    assert read_state(both)["state"] == read_state(both / "seed_1")["state"] == "finished"
    assert [read_config(run)["data"]["seed"] for run in runs_of(both)] == [0, 1]
    assert main(["fit", *SETTINGS, "--seed=1", "--run_dir=alone"]) == 0
    assert weights(here / "alone") == weights(both / "seed_1") != weights(both / "seed_0")
    assert all((run / "model" / "model.safetensors").exists() for run in runs_of(both))


def test_it_ends_with_the_headline_over_seeds(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["fit", *SETTINGS, "--seeds", "3", "5", "--run_dir=run", "--data.validation_share=0.4"]) == 0
    table = capfd.readouterr().out.partition("over 2 seeds")[2]
    values = [best_metrics(here / "run" / f"seed_{seed}") for seed in (3, 5)]
    assert values[0] != values[1]
    for name in ("val/accuracy", "val/f1_macro", "val/mcc"):
        of_both = [each[name] for each in values]
        assert f"{name:<28}{fmean(of_both):>10.4f}{stdev(of_both):>12.4f}" in table.splitlines()
    assert "val/auroc" not in table
    assert "next:    python -m ptm_lightning test --run_dir run" in table


def test_an_interrupted_run_goes_on_with_all_its_seeds(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capfd: pytest.CaptureFixture[str]):  # fmt: skip
    """The first seed is stopped in mid-run, the second one isn't begun yet."""
    step = torch.optim.AdamW.step
    calls = 0

    def stopping(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", stopping)
        assert main(["fit", *SETTINGS, "--seeds", "0", "1", "--run_dir=runs/classification/x"]) == 130
    run = here / "runs/classification/x"
    assert "go on with: python -m ptm_lightning fit --resume runs/classification/x\n" in capfd.readouterr().err
    assert read_state(run)["state"] == "interrupted"
    assert not (run / "seed_1").exists()
    assert main(["fit", "--config=classification", "--resume"]) == 0
    assert read_state(run)["state"] == "finished"
    for mine, whole in zip(runs_of(run), runs_of(trained / "both"), strict=True):
        assert weights(mine) == weights(whole)
        assert read_state(mine)["preset"] == "classification"


def test_a_finished_one_is_left_alone_unless_limits_change(trained: Path, here: Path):
    shutil.copytree(trained / "both", here / "both")
    written = [weights(run) for run in runs_of(here / "both")]
    shutil.rmtree(here / "both" / "seed_1")
    before = (here / "both" / "seed_0" / "metrics.csv").read_text()
    assert main(["fit", "--resume=both"]) == 0
    assert (here / "both" / "seed_0" / "metrics.csv").read_text() == before
    assert [weights(run) for run in runs_of(here / "both")] == written
    assert main(["fit", "--resume=both", "--trainer.max_steps=4"]) == 0
    assert [max(step_files(run / "checkpoints")) for run in runs_of(here / "both")] == [4, 4]


def test_the_newest_run_is_the_whole(trained: Path):
    assert newest(trained) == trained / "both"
    assert newest_unfinished(trained, "classification", "SequenceClassification") is None


MISTAKES = [
    (["--seeds=1"], "--seeds 1: is how many there are, at least 2; for a single one give --seed"),
    (["--seeds", "4", "7", "4"], "--seeds 4 7 4: one comes twice; give others"),
    (["--seeds=2", "--seed=3"], "--seed: --seeds gives each run its own; leave one of them out"),
    (["--seeds=2", "--data.seed=3"], "--data.seed: --seeds gives each run its own; leave one of them out"),
    (["--seeds=2", "--resume=x"], "--seeds: --resume goes on with the seeds that the run has; leave it out"),
    (["--seeds=two"], "argument --seeds: invalid int value: 'two'"),
    (["--seeds=2", "--model.size=huge"], "--model.size huge: give tiny, mini, small, medium, base, large"),
    (
        ["--seeds=2", "--trainer.devices=2"],
        "--seeds: only for runs of one process; start one for each seed, with --seed and --run_dir",
    ),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[" ".join(flags) for flags, _ in MISTAKES])
def test_what_makes_no_sense_is_refused(here: Path, flags: list[str], message: str, capfd: pytest.CaptureFixture[str]):
    assert main(["fit", *SETTINGS, "--run_dir=run", *flags]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == f"error: {message}"
    assert not (here / "run").exists()


def test_a_dry_run_leaves_nothing(here: Path):
    assert main(["fit", *SETTINGS, "--seeds=2", "--dry_run"]) == 0
    assert not (here / "runs").exists()
