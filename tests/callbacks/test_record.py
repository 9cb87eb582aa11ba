import json
import os
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from ptm_lightning.callbacks.record import CSVRecord
from torch import Tensor, nn, randn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_a_line_for_each_metric_on_disk_at_once(tmp_path: Path) -> None:
    record = CSVRecord(tmp_path)
    record.log_metrics({"train/loss": 0.1 + 0.2, "tokens": 4096.0, "epoch": 0.0, "a,b": 1}, 10)
    record.log_metrics({"val/loss": float("nan")}, 10)
    assert lines(tmp_path) == [
        "step,tokens,metric,value",
        "10,4096,train/loss,0.30000000000000004",
        '10,4096,"a,b",1.0',
        "10,,val/loss,nan",
    ]


def test_resume_drops_what_is_newer_than_the_checkpoint(tmp_path: Path) -> None:
    first = CSVRecord(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": step}, step)
    again = CSVRecord(tmp_path)
    again.truncate(2)
    again.log_metrics({"train/loss": 30}, 3)
    assert lines(tmp_path)[1:] == ["1,,train/loss,1.0", "2,,train/loss,2.0", "3,,train/loss,30.0"]
    CSVRecord(tmp_path).truncate(0)
    assert lines(tmp_path) == ["step,tokens,metric,value"]


def samples(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_tables_are_lines_of_json_and_resume_drops_what_is_newer(tmp_path: Path) -> None:
    for step in (2, 4):
        CSVRecord(tmp_path).log_table(
            "val/samples", ["prompt", "generated"], [["a\nb", "é\u2028e"], ["c", float(step)]], step
        )
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write('{"step": 5, "tab')
    again = CSVRecord(tmp_path)
    again.truncate(3)
    again.log_table("val/samples", ["prompt"], [["again"]], 4)
    assert samples(tmp_path) == [
        {"step": 2, "table": "val/samples", "prompt": "a\nb", "generated": "é\u2028e"},
        {"step": 2, "table": "val/samples", "prompt": "c", "generated": 2.0},
        {"step": 4, "table": "val/samples", "prompt": "again"},
    ]
    assert not (tmp_path / "metrics.csv").exists()


def test_a_table_torn_by_a_kill_goes_on(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"step": 1}\n7\n{"ste')
    CSVRecord(tmp_path).log_table("t", ["a"], [["b"]], 2)
    assert samples(tmp_path) == [{"step": 1}, {"step": 2, "table": "t", "a": "b"}]


def test_truncate_without_a_file_makes_none(tmp_path: Path) -> None:
    CSVRecord(tmp_path).truncate(5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", ["2,,train/lo", "2,,train/loss,0.12", "2"])
@pytest.mark.parametrize("truncate", [True, False])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str, truncate: bool) -> None:
    CSVRecord(tmp_path).log_metrics({"train/loss": 1}, 1)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(torn)
    record = CSVRecord(tmp_path)
    if truncate:
        record.truncate(9)
    record.log_metrics({"train/loss": 2}, 2)
    assert lines(tmp_path)[1:] == ["1,,train/loss,1.0", "2,,train/loss,2.0"]


def test_a_full_disk_costs_a_warning_and_no_line_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = CSVRecord(tmp_path)
    record.log_metrics({"train/loss": 1}, 1)

    def full(descriptor: int, data: bytes) -> int:
        monkeypatch.undo()
        os.write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptm_lightning.files._write_all", full)
    with pytest.warns(UserWarning, match=r"metrics at step 2 not written to .*metrics.csv \(No space left on device\)"):
        record.log_metrics({"train/loss": 2}, 2)
    record.log_metrics({"train/loss": 3}, 3)
    assert lines(tmp_path)[1:] == ["1,,train/loss,1.0", "3,,train/loss,3.0"]


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.net(batch).sum()
        self.log("train/loss", loss)
        self.log("step", float(self.global_step + 1))
        return loss

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), 0.1)


def test_under_a_trainer(tmp_path: Path) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path,
        logger=CSVRecord(tmp_path),
        max_steps=4,
        log_every_n_steps=2,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(randn(10, 2)))
    assert [line.split(",")[:3] for line in lines(tmp_path)[1:]] == [["2", "", "train/loss"], ["4", "", "train/loss"]]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]
