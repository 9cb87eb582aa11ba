"""compare, through the command line, on runs of one and of several seeds."""

import json
import shutil
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

from ptm_lightning.__main__ import main
from ptm_lightning.compare import compare
from ptm_lightning.run import read_state, write_state
from ptm_lightning.scores import Evaluated
from ptm_lightning.seeds import best_metrics
from ptm_lightning.testing_case import tiny

SIZE = [f"--model.overrides={json.dumps(tiny('bert'))}", "--data.vocab_size=300", "--trainer.accelerator=cpu"]
TASK = ["--config=classification", "--data.train=rows.jsonl", "--data.validation_share=0.3", "--data.max_length=24"]


def row(number: int) -> dict[str, str]:
    """A sky that tells of the weather, mostly."""
    sky = ["sun", "rain", "snow"][number % 3]
    return {"id": f"day {number}", "text": f"{sky} on day {number * 7 % 31}", "label": sky if number % 4 else "fog"}


def fit(*flags: str) -> int:
    return main(["fit", *SIZE, "--trainer.max_steps=6", *flags])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with `three`, a run of three seeds, and `one`, with another tokenizer; both are tested."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(90)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        patch.chdir(folder)
        assert fit(*TASK, "--model.learning_rate=0.02", "--seeds=3", "--run_dir=three") == 0
        assert fit(*TASK, "--model.learning_rate=1e-9", "--run_dir=one", "--data.vocab_size=120") == 0
        for run in ("three", "one"):
            assert main(["test", "--run_dir", run]) == 0
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("three", "one"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "rows.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(screen: str, metric: str, run: str) -> list[str]:
    """The words of a run's line below a metric."""
    lines = screen.splitlines()
    first = next(number for number, text in enumerate(lines) if text.split()[:1] == [metric])
    return next(text.split()[1:] for text in lines[first:] if text.split()[:1] == [run])


def test_metrics_over_seeds(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["compare", "three", "one"]) == 0
    screen = capfd.readouterr().out
    tested = [Evaluated.read(here / "three" / f"seed_{seed}", "test") for seed in range(3)]
    validated = [best_metrics(here / "three" / f"seed_{seed}") for seed in range(3)]
    for name, runs in {"test/loss": [each.metrics for each in tested], "val/loss": validated}.items():
        values = [metrics[name] for metrics in runs]
        low, high = stats.t.interval(0.95, 2, loc=fmean(values), scale=stats.sem(values))
        expected = ["3", f"{fmean(values):.4f}", f"{stdev(values):.4f}", f"{low:.4f}", "to", f"{high:.4f}"]
        assert line(screen, name, "three") == expected
    assert line(screen, "test/loss", "one")[0] == "1"
    assert line(screen, "test/loss", "one")[2:] == ["-", "-"]


def test_the_difference_is_tested_on_the_same_examples(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["compare", "three", "one", "--split", "test"]) == 0
    screen = capfd.readouterr().out
    assert "val/" not in screen
    seeds = [Evaluated.read(here / "three" / f"seed_{seed}", "test").scores for seed in range(3)]
    alone = Evaluated.read(here / "one", "test").scores
    differences = [fmean(seed[id_]["accuracy"] for seed in seeds) - alone[id_]["accuracy"] for id_ in alone]
    whole = [round(3 * difference) for difference in differences]  # in thirds, scipy takes equal sums for different
    exact = stats.permutation_test(
        (whole,), lambda a, axis: a.mean(axis=axis), permutation_type="samples", n_resamples=2**14
    ).pvalue
    found = next(text.split() for text in screen.splitlines() if text.startswith("  three - one"))
    assert float(found[3]) == pytest.approx(fmean(differences), abs=1e-4)
    assert float(found[-1]) == pytest.approx(exact, abs=0.02)
    assert f"accuracy by example, mean over seeds: paired test on {len(alone)} with 10,000 exchanges" in screen


def test_validate_makes_a_test_of_the_validation_data_possible(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["compare", "one", "three", "--split=val"]) == 0
    screen = capfd.readouterr()
    assert "paired test" not in screen.out
    said = "not evaluated on its val data yet; run python -m ptm_lightning validate --run_dir three"
    assert f"three: {said}" in screen.err.splitlines()
    before = line(screen.out, "val/f1_macro", "three")
    for run in ("three", "one"):
        assert main(["validate", "--run_dir", run]) == 0
    assert "over 3 seeds" in capfd.readouterr().out
    assert main(["compare", "one", "three", "--split=val"]) == 0
    screen = capfd.readouterr()
    assert "val, accuracy by example" in screen.out
    assert line(screen.out, "val/f1_macro", "three") == before
    assert screen.err == ""


def test_a_single_run_is_summed_up(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["compare", "three"]) == 0
    screen, said = capfd.readouterr()
    assert said == "val: the metrics are those that training measured at its best checkpoint\n"
    assert line(screen, "val/accuracy", "three")[0] == "3"
    assert "paired test" not in screen


def test_an_evaluation_of_another_checkpoint_doesn_t_count(here: Path, capfd: pytest.CaptureFixture[str]):
    told = Evaluated.read(here / "one", "test")
    newest = sorted((here / "one" / "checkpoints").glob("*.ckpt"))[-1].name
    assert main(["test", "--run_dir=one", "--checkpoint=last"]) == 0
    if newest != told.checkpoint:
        assert Evaluated.read(here / "one", "test") == told
    Evaluated(told.split, told.data, "step=00000099.ckpt", told.metrics, told.scores).write(here / "one")
    capfd.readouterr()
    assert main(["compare", "one", "three", "--split=test"]) == 0
    assert "one: not evaluated on its test data yet" in capfd.readouterr().err


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    assert main(["compare", *arguments]) == 2
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_other_data_are_refused(here: Path, capfd: pytest.CaptureFixture[str]):
    (here / "more.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(200, 220)))
    assert main(["test", "--run_dir=one", "--data.test=more.jsonl"]) == 0
    assert refused(capfd, "three", "one") == (
        "error: one: has another test data than three; --split compares only one split"
    )
    assert main(["compare", "three", "one", "--split=val"]) == 0
    write_state(here / "one", {"data": {"val": "other", "test": "other"}})
    assert (
        refused(capfd, "three", "one") == "error: one: has another val data than three; --split compares only one split"
    )


def test_a_part_of_the_examples_is_refused(here: Path, capfd: pytest.CaptureFixture[str]):
    whole = Evaluated.read(here / "one", "test")
    some = dict(list(whole.scores.items())[1:])
    Evaluated(whole.split, whole.data, whole.checkpoint, whole.metrics, some).write(here / "one")
    assert refused(capfd, "three", "one").startswith("error: one: has another choice of test examples than three")


def test_mistakes(here: Path, capfd: pytest.CaptureFixture[str]):
    assert refused(capfd) == "error: compare: name run folders, such as: compare runs/a runs/b"
    assert refused(capfd, "one", "nowhere") == "error: nowhere: there is no run in it; name run folders"
    assert refused(capfd, "one", "--foo=3") == (
        "error: --foo=3: compare has no such flag (python -m ptm_lightning compare --help)"
    )
    write_state(here / "three" / "seed_2", {"state": "interrupted"})
    assert refused(capfd, "one", "three") == "error: three: is not finished; go on with fit --resume three"
    write_state(here / "three" / "seed_2", {"state": "finished", "task": "TokenClassification"})
    assert refused(capfd, "one", "three") == (
        "error: three: has another task than one (TokenClassification, not SequenceClassification)"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["predict", "--text=x"], "--run_dir three: holds one for each seed; name one of them, such as"),
        (["export"], "--run_dir three: holds one for each seed; name one of them, such as"),
        (["test", "--checkpoint=x.ckpt"], "--checkpoint x.ckpt: is of one seed; name its run, such as --run_dir"),
        (["test", "--trainer.devices=2"], "--trainer.devices: with several seeds, only 1; name one, such as --run_dir"),
    ],
)
def test_what_needs_one_run_says_so(here: Path, command: list[str], message: str, capfd: pytest.CaptureFixture[str]):
    assert main([*command, "--run_dir=three"]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == f"error: {message} three/seed_0"


def test_from_python(here: Path, capsys: pytest.CaptureFixture[str]):
    assert read_state(here / "three")["seeds"] == [0, 1, 2]
    assert compare(["three"], "test") == 0
    assert "val/" not in capsys.readouterr().out
