import json
from pathlib import Path

import evidence
import pytest

from ptm_lightning.__main__ import main
from ptm_lightning.run import write_state


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(evidence, "ptm", lambda *arguments: given.append(arguments))
    return given


def test_it_begins_then_goes_on_then_is_done(tmp_path: Path, commands: list[tuple[str, ...]]) -> None:
    command = ["fit", "--config", "mlm"]
    evidence.train(command, tmp_path)
    assert commands[-1] == (*command, "--run_dir", str(tmp_path))
    write_state(tmp_path, {"state": "interrupted"})
    evidence.train(command, tmp_path)
    assert commands[-1] == ("fit", "--resume", str(tmp_path))
    write_state(tmp_path, {"state": "finished"})
    evidence.train(command, tmp_path)
    assert len(commands) == 2


def test_the_curve_is_by_tokens(tmp_path: Path) -> None:
    lines = ["step,tokens,metric,value", "0,0,val/loss,6.5", "5,500,train/loss,6.0", "5,500,val/loss,5.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert evidence.curve(tmp_path, "val/loss") == [(0, 6.5), (500, 5.5)]


def test_a_whole_experiment(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ptm(*arguments: str) -> None:
        assert main(arguments) == 0

    monkeypatch.setattr(evidence, "ptm", ptm)
    results = tmp_path / "results.jsonl"
    flags = {
        "text": str(corpus),
        "results": str(results),
        "run_dir": str(tmp_path / "run"),
        "model.size": "tiny",
        "data.vocab_size": "600",
        "data.max_length": "32",
        "data.validation_share": "0.1",
        "trainer.max_steps": "3",
    }
    assert evidence.main(["mlm", *(word for name, value in flags.items() for word in (f"--{name}", value))]) == 0
    (line,) = results.read_text().splitlines()
    found = json.loads(line)
    assert [tokens for tokens, _ in found["curve"]] == sorted(tokens for tokens, _ in found["curve"])
    assert found["curve"][-1][0] == found["tokens"] > 0
    assert found["unigram_loss"] > 1
    assert found["command"][:5] == ["python", "-m", "ptm_lightning", "fit", "--config"]
    assert found["versions"]["version of torch"]
    assert found["answers"]
    assert all("[MASK]" in answer["text"] and answer["guesses"] for answer in found["answers"])
