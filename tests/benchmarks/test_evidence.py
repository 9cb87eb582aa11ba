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


def test_the_table_has_the_newest_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(name: str, end: float) -> str:
        metrics = {"loss": {"start": 9.0, "end": end, "baseline": 6.5}, "f1": {"start": 0, "end": 1, "baseline": None}}
        return json.dumps({"experiment": name, "metrics": metrics}) + "\n"

    results = tmp_path / "results.jsonl"
    results.write_text(line("gpt", 5.0) + line("bert", 4.0) + line("gpt", 3.0))
    assert evidence.main(["table", "--results", str(results)]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0] == ["bert", "loss", "9.0000", "4.0000", "6.5000"]
    assert rows[2] == ["gpt", "loss", "9.0000", "3.0000", "6.5000"]
    assert rows[3][-1] == "-"


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
    loss = found["metrics"]["loss"]
    assert found["curve"][-1][1] == pytest.approx(loss["end"])
    assert 1 < loss["baseline"] < loss["start"]
    assert found["answers"]
    assert all("[MASK]" in answer["text"] and answer["guesses"] for answer in found["answers"])
