import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import growth
import limits
import measuring
import numpy as np
import objectives
import peers
import pytest
import ratios
import startup
import suites
import torch
from clock import WARM_UP, Clock, Job, Size

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="transformers.Trainer needs accelerate"
)


def test_a_ratio_is_that_of_one_turn() -> None:
    turns = {
        "ours": [{"tokens_per_second": 600.0}, {"tokens_per_second": 300.0}],
        "trainer": [{"tokens_per_second": 100.0}, {"tokens_per_second": 100.0}],
    }
    assert ratios.ratios(turns, "trainer") == [6.0, 3.0]
    assert ratios.spread([6.0, 3.0, 4.0]) == "4.00  (3.00 to 6.00)"


@pytest.mark.parametrize("wrong", [{"loss": 2e-5, "gradient": 0.0}, {"loss": 0.0, "gradient": float("nan")}])
def test_nothing_is_compared_before_ours_and_the_peers_agree(
    wrong: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "work", lambda file, job: wrong)
    with pytest.raises(SystemExit, match="don't agree in fp32, so nothing is compared"):
        measuring.check_agreement(Job("agree", text=[], folder=""))


def test_the_clock_leaves_the_warm_up_and_the_padding_out() -> None:
    clock = Clock()
    for step in range(WARM_UP + 2):
        slow = 100.0 if step < WARM_UP else 1.0
        began = (clock.ended[-1] if clock.ended else 0.0) + 0.25 * slow
        clock.begun.append(began)
        clock.ended.append(began + 0.75 * slow)
        clock.faults.append(1000 if step < WARM_UP else clock.faults[-1] + 10)
        clock.optimized.append(0.1 * slow)
        clock.sizes.append(Size(places=100, width=10, tokens=80, projected=15))
    config = peers.build_config("bert", "tiny", None, vocab_size=50, max_length=16, special_ids={"pad": 0})
    result = clock.result(peers.build_network("AutoModelForMaskedLM", config, seed=0))
    assert result["tokens_per_second"] == pytest.approx(80)
    assert result["waiting"] == pytest.approx(0.25)
    assert result["optimizer"] == pytest.approx(0.1)
    assert result["padding"] == pytest.approx(0.2)
    assert result["projected"] == pytest.approx(0.15)
    assert result["faults"] == 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_and_gradient_agree(job: Job, precision: str) -> None:
    found = peers.agree(replace(job, precision=precision))
    assert found["loss"] <= measuring.TOLERANCES[precision]["loss"]
    assert found["gradient"] <= measuring.TOLERANCES[precision]["gradient"]


def test_other_weights_do_not_agree(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    network = peers._network(job)
    with torch.no_grad():
        network.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    monkeypatch.setattr(peers, "_network", lambda job: network)
    found = peers.agree(job)
    assert found["loss"] > 1e-5
    assert found["gradient"] > 1e-4


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize(
    ("name", "projected"),
    [("ours", 0.15), pytest.param("trainer", 1.0, marks=needs_accelerate), ("lightning", 1.0)],
)
def test_all_train(
    job: Job, name: str, projected: float, layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = peers.WORK[name](replace(job, layout=layout))
    assert found["tokens_per_second"] > 0
    assert found["projected"] == pytest.approx(projected, abs=0.06)
    assert found["padding"] == pytest.approx(0.0, abs=0.7 if layout == "rows" else 0.05)


def test_costs(job: Job) -> None:
    assert limits.loop(job)["loader"] > 0
    assert limits.efficiency(job)["efficiency"] > 0
    assert limits.tokenizing(job)["store"] > 0
    assert limits.memory(job, copies=2)["training"] > 1


def test_a_start_ends_with_the_first_step(job: Job, tmp_path: Path) -> None:
    begun = startup.measure(startup.first_step(job, tmp_path / "run"), job)
    assert begun["cpu_seconds"] > 0
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_a_start_is_a_ratio_and_an_answer_is_not(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"first step": 6.0, "imports": 5.0, "fit --help": 4.0, "--help": 0.125, "--version": 0.0625}
    turns = {name: [{"seconds": each, "cpu_seconds": 2 * each**2}] for name, each in measured.items()}
    monkeypatch.setattr(suites, "starts", lambda job, pairs: turns)
    keys = ("overhead", "overhead_seconds", "loader", "efficiency", "store", "building", "training")
    monkeypatch.setattr(measuring, "work", lambda file, job: dict.fromkeys(keys, 1.0))
    suites.costs(job, pairs=1)
    ends = {line.strip().partition("  ")[0]: line.split()[-4] for line in capsys.readouterr().out.splitlines() if line}
    assert ends["to the first step over imports alone, goal 1.2"] == "1.20"
    assert ends["the same in time of the processor"] == "1.44"
    assert ends["fit --help over imports alone"] == "0.80"
    assert ends["--help, in seconds, goal 0.25"] == "0.12"


def test_a_start_that_fails_says_so(job: Job) -> None:
    with pytest.raises(SystemExit, match="no-such-command failed:\nerror: 'no-such-command' is no command"):
        startup.measure([*startup.PROGRAM, "no-such-command"], job)


@pytest.mark.parametrize("preset", ["bert", "xlnet", "t5", "electra"])
def test_the_loop_of_each_objective(job: Job, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = objectives.loop(replace(job, preset=preset, max_length=64))
    assert found["overhead"] > 0
    assert found["loader"] > 1


def test_the_clock_parts_the_optimizer_from_the_network(job: Job) -> None:
    """Which Lightning runs within the optimizer's step, and transformers before it."""
    for work in (peers.ours, peers.transformers_trainer):
        assert 0 < work(replace(job, size="mini"))["optimizer"] < 0.7


def test_the_loops_own_time(job: Job) -> None:
    found = limits.idle_loop(replace(job, steps=45))
    assert math.isfinite(found["overhead_seconds"])
    assert found["overhead"] > 0


def test_a_step_lasts_as_long_as_most_of_its_kind() -> None:
    ended = np.cumsum([100.0] * WARM_UP + [1.0] * 40 + [50.0] + [1.0] * 29)
    assert limits._seconds_of_step(ended.tolist()) == 1
    assert limits._seconds_of_step(ended[: WARM_UP + 2].tolist()) == 1


@pytest.mark.parametrize("preset", suites.PEER_PRESETS)
def test_objectives_with_a_peer(job: Job, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    this = replace(job, preset=preset, folder=str(tmp_path))
    objectives.prepare(this)
    found = objectives.agree(this)
    assert found["loss"] <= measuring.TOLERANCES["fp32"]["loss"]
    assert found["gradient"] <= measuring.TOLERANCES["fp32"]["gradient"]
    ours = objectives.ours(this)
    assert ours["padding"] < 0.05
    assert ours["projected"] == pytest.approx(1 / 6 if preset == "xlnet" else 1, abs=0.04)
    if importlib.util.find_spec("accelerate"):
        assert objectives.trainer(this)["projected"] == 1


def test_the_suites_are_run_as_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, str, str]] = []

    def work(file: str, job: Job) -> dict[str, float]:
        asked.append((file, job.what, job.preset))
        return {"loader": 42.0, "overhead": 1.0, "loss": 0.0, "gradient": 0.0, "tokens_per_second": 5.0}

    monkeypatch.setattr(measuring, "work", work)
    assert bench.main(["--quick", "--suite", "objectives"]) == 0
    assert {preset for _, what, preset in asked if what == "loop"} == set(suites.PRESETS)
    assert ("objectives.py", "trainer", "xlnet") in asked
    assert all(file == "objectives.py" for file, _, _ in asked)
    assert "bert      42.00" in capsys.readouterr().out


def test_growth(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {32: 3.0, 128: 2.0}
    monkeypatch.setattr(growth, "GROWN", {"max_length": (32,), "num_workers": (1,)})
    found = growth.growth(
        replace(job, max_length=128), 2, lambda file, job: {"tokens_per_second": speeds[job.max_length]}
    )
    assert found == {"max_length 32": [1.5, 1.5], "num_workers 1": [1.0, 1.0]}
    assert growth.grown(replace(job, what="grown", num_workers=1, corpus=0.5))["tokens_per_second"] > 0


def test_anonymous_memory_is_seen() -> None:
    with limits._most_anonymous() as before:
        pass
    with limits._most_anonymous() as peak:
        held = torch.ones(30_000_000)
        limits.time.sleep(4 * limits.SAMPLE_SECONDS)
        del held
    assert peak[0] > before[0] + 100


def test_costs_alone_have_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--suite", "costs", "--picture", str(tmp_path / "bench.png")])
    assert "--picture: costs have no peer, so no ratios to draw; add another --suite" in capsys.readouterr().err
