from pathlib import Path
from typing import Any

import pytest
import torch
from kill_at import AFTER, BEFORE, DURING, Death, has_strace
from kills import WRITING, deaths, records_differ, run, settings, write_corpus
from sweep import difference, sweep

from ptm_lightning.checkpoint import SafeCheckpointIO


def checkpoint() -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.tensor([0.0, float("nan"), 2.0])},
        "callbacks": {"Budget": {"hours": 0.1, "steps": 3}},
        "loops": {"count": 1},
        "rates": [0.1, 0.2],
    }


def test_equal_checkpoints_have_no_difference() -> None:
    other = checkpoint()
    other["callbacks"]["Budget"]["hours"] = 0.7
    other["loops"] = {"count": 2}
    assert difference(checkpoint(), other) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state_dict", "weight"), torch.tensor([-0.0, float("nan"), 2.0])),
        (("state_dict", "weight"), torch.tensor([0.0, float("nan"), 2.0000002])),
        (("state_dict", "weight"), torch.tensor([0.0, float("nan"), 2.0], dtype=torch.float64)),
        (("state_dict", "more"), torch.zeros(1)),
        (("callbacks", "Budget", "steps"), 4),
        (("rates",), [0.1, 0.20000000000000004]),
        (("rates",), [0.1]),
    ],
)
def test_any_other_bit_is_a_difference(path: tuple[str, ...], value: Any) -> None:
    other = checkpoint()
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    found = difference(checkpoint(), other)
    assert found is not None
    assert path[0] in found


def test_twenty_deaths_hold_every_place() -> None:
    plan = deaths(20, steps=120, processes=2, seed=0)
    assert len(plan) == 20
    assert {death.place for death in plan} == {*BEFORE, *DURING, *AFTER}
    assert {(death.call, death.nth) for death in plan if death.place == "writing"} == set(WRITING)
    steps = [death.step for death in plan]
    assert steps == sorted(steps)
    assert plan == deaths(20, steps=120, processes=2, seed=0)
    assert plan != deaths(20, steps=120, processes=2, seed=1)


def test_one_process_alone_has_no_other_to_die() -> None:
    assert all(death.place != "one process" for death in deaths(40, steps=120, processes=1, seed=0))


def test_records_are_compared_without_speeds(tmp_path: Path) -> None:
    left, right = tmp_path / "left.csv", tmp_path / "right.csv"
    left.write_text("step,tokens,metric,value\n0,0,val/loss,6.5\n3,90,speed/step_seconds,0.1\n")
    right.write_text("step,tokens,metric,value\n0,0,val/loss,6.5\n3,90,speed/step_seconds,0.2\n")
    assert records_differ(left, right) is None
    right.write_text(right.read_text() + "0,0,val/loss,6.5\n")
    assert "val/loss" in str(records_differ(left, right))


def test_the_command_dies_after_it_has_trained_the_tokenizer(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    told = tmp_path / "told"
    arguments = settings(tmp_path / "corpus.txt", tmp_path / "run", tmp_path / "cache", steps=2, processes=1)
    assert run(arguments, tmp_path / "log", Death("training the tokenizer", report=str(told))) == -9
    assert told.read_text() == "0"
    assert not (tmp_path / "cache" / "tokens").exists()


def test_the_command_dies_while_tokenizing_and_nowhere_else(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    cache, told = tmp_path / "cache", tmp_path / "told"
    arguments = settings(tmp_path / "corpus.txt", tmp_path / "run", cache, steps=2, processes=1)
    assert run(arguments, tmp_path / "log", Death("tokenizing", report=str(told))) == -9
    assert told.read_text() == "0"
    (partial,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    assert partial.name.endswith(".partial")


@pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not trace here")
def test_the_sweep_finds_a_writer_that_tears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tear(self: SafeCheckpointIO, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        path.parent.mkdir(exist_ok=True)
        torch.save(checkpoint, path)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", tear)
    number, wrong = sweep(tmp_path, {"weight": torch.ones(3)})
    assert number > 10
    assert wrong
