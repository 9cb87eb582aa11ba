import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from ptm_lightning.callbacks import wandb as module
from ptm_lightning.callbacks import wandb_server
from ptm_lightning.callbacks.record import CSVRecord
from ptm_lightning.callbacks.wandb import Wandb
from ptm_lightning.callbacks.wandb_history import Sent, csv_rows, server_history, unsent
from ptm_lightning.callbacks.wandb_server import netrc_has_key, reachable
from torch import Tensor, nn
from torch.utils.data import DataLoader
from wandb.proto import wandb_internal_pb2

from ptm_lightning.__main__ import main
from ptm_lightning.figures import Curves
from ptm_lightning.plots import draw
from ptm_lightning.testing_case import tiny

STEP = "trainer/global_step"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, and nothing read or written outside the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B reads the environment only once in a process."""
    wandb.teardown()
    yield
    wandb.teardown()


def read(path: Path) -> Iterator[Any]:
    """An independent reader: first the blocks' fragments, then the records."""
    data, whole = path.read_bytes(), b""
    assert data[:4] == b":W&B"
    for start in range(0, len(data), 32768):
        block, at = data[start : start + 32768], 7 if start == 0 else 0
        while at <= len(block) - 7:
            crc, length, kind = struct.unpack("<IHB", block[at : at + 7])
            assert zlib.crc32(block[at + 6 : at + 7 + length]) == crc
            whole += block[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                yield wandb_internal_pb2.Record.FromString(whole)  # type: ignore[attr-defined]
                whole = b""


def runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def records(folder: Path, kind: str) -> list[Any]:
    files = [path for run in runs(folder) for path in run.glob("*.wandb")]
    return [
        getattr(record, kind) for path in files for record in read(path) if record.WhichOneof("record_type") == kind
    ]


def history(folder: Path) -> list[dict[str, Any]]:
    """Rows without W&B's own columns."""
    rows: list[dict[str, Any]] = []
    for record in records(folder, "history"):
        row: dict[str, Any] = {}
        for item in record.item:
            name, *rest = item.nested_key or [item.key]
            if not name.startswith("_"):
                row[name] = (
                    row.get(name, {}) | {rest[0]: json.loads(item.value_json)} if rest else json.loads(item.value_json)
                )
        rows.append(row)
    return rows


def config(folder: Path) -> dict[str, Any]:
    sent: dict[str, Any] = {}
    for record in [*records(folder, "run"), *records(folder, "config")]:
        updates = record.config.update if record.DESCRIPTOR.name == "RunRecord" else record.update
        sent |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates}
    return sent


def said_by_us(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ptm_lightning"]


class Toy(LightningModule):
    """Publishes as `Task` does."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({"train/loss": 1 / self.global_step, "tokens": 10 * self.global_step}, self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class ToyData(LightningDataModule):
    def __init__(self, max_length: int = 8, api_key: str = "abc") -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.ones(8, 2), 2)  # type: ignore[arg-type]


def fit(folder: Path, logger: Wandb, **arguments: Any) -> None:
    trainer = Trainer(
        max_epochs=1,
        logger=logger,
        default_root_dir=folder,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(Toy(), ToyData())


def test_a_fit_offline_holds_settings_rows_and_axes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb(tmp_path, name="a run", offline=True)
    fit(tmp_path, logger)
    logger.finish()
    assert history(tmp_path) == [{STEP: n, "tokens": 10 * n, "train/loss": 1 / n} for n in (1, 2, 3, 4)]
    assert {key: value for key, value in config(tmp_path).items() if key[0] != "_"} == {"width": 2, "max_length": 8}
    axes = {record.glob_name or record.name: record.step_metric for record in records(tmp_path, "metric")}
    assert axes.items() >= {STEP: "", "tokens": "", "*": STEP}.items()
    first = records(tmp_path, "run")[0]
    assert (first.project, first.display_name, first.run_id) == ("ptm_lightning", "a run", logger.version)
    [said] = said_by_us(caplog)
    assert "offline (as asked)" in said
    assert f"wandb sync --project ptm_lightning {tmp_path}/wandb/offline-run-*-{logger.version}" in said


def test_the_resolved_config_is_sent_whole_but_for_secrets(tmp_path: Path) -> None:
    settings = {"model": {"size": "tiny"}, "data": {"train": ["a.txt"], "hub_token": "x"}, "seed": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    logger = Wandb(tmp_path, offline=True)
    logger.log_hyperparams({"ignored": 1})
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.finish()
    sent = config(tmp_path)
    assert sent["model"] == {"size": "tiny"}
    assert sent["data"] == {"train": ["a.txt"]}
    assert "ignored" not in sent


def test_nothing_is_opened_before_the_first_row(tmp_path: Path) -> None:
    logger = Wandb(tmp_path / "run", offline=True)
    fit(tmp_path, logger, limit_train_batches=0)
    logger.finalize("failed")
    logger.finish()
    assert not (tmp_path / "run").exists()


def test_all_files_stay_in_the_run_folder(tmp_path: Path) -> None:
    logger = Wandb(tmp_path, offline=True)
    logger.log_table("t", ["a"], [["b"]], 1)
    assert os.environ["WANDB_DATA_DIR"] == os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "wandb" / "files")
    logger.finish()
    assert "WANDB_DATA_DIR" not in os.environ
    assert any(path.is_file() for path in (tmp_path / "wandb" / "files").rglob("*"))


def test_a_table_is_an_artifact_with_its_rows(tmp_path: Path) -> None:
    logger = Wandb(tmp_path, offline=True)
    logger.log_table("val/samples", ["text", "guesses"], [["a [MASK]", "b"], ["[MASK] c", "d"]], 5)
    logger.log_table("val/samples", ["text", "guesses"], [["again", "b"]], 5)
    logger.finish()
    [row] = history(tmp_path)
    assert row[STEP] == 5
    assert (row["val/samples"]["ncols"], row["val/samples"]["nrows"]) == (2, 2)
    [artifact] = records(tmp_path, "artifact")
    assert artifact.type == "run_table"
    table = json.loads(Path(artifact.manifest.contents[0].local_path).read_text())
    assert (table["columns"], table["data"]) == (["text", "guesses"], [["a [MASK]", "b"], ["[MASK] c", "d"]])


def test_the_exported_model_is_sent_once_for_each_export(tmp_path: Path) -> None:
    logger = Wandb(tmp_path, offline=True)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.finalize("success")  # nothing exported yet
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1234")
    logger.finalize("failed")
    logger.finalize("success")
    logger.finalize("success")
    weights.write_bytes(b"12345")
    os.utime(weights, ns=(1, 1))
    logger.finalize("success")
    logger.finish()
    first, second = records(tmp_path, "artifact")
    assert (first.type, first.name, sorted(first.aliases)) == ("model", f"model-{logger.version}", ["best", "latest"])
    assert [(file.path, file.size) for file in first.manifest.contents] == [("model.safetensors", 4)]
    assert [(file.path, file.size) for file in second.manifest.contents] == [("model.safetensors", 5)]


def test_resume_goes_on_with_the_same_id_and_each_step_once(tmp_path: Path) -> None:
    first = Wandb(tmp_path, offline=True)
    for step in range(1, 6):
        first.log_metrics({"train/loss": 1 / step, "tokens": 10 * step}, step)
    first.finish()
    again = Wandb(tmp_path, offline=True)
    again.truncate(3)
    for step in range(4, 8):
        again.log_metrics({"train/loss": 1 / step, "tokens": 10 * step}, step)
        if step >= 5:
            again.log_metrics({"val/loss": step, "tokens": 10 * step}, step)
    again.log_metrics({"test/loss": 9.0, "tokens": 70}, 0)
    again.finish()
    assert first.version == again.version
    assert len(runs(tmp_path)) == 2
    assert {run.run_id for run in records(tmp_path, "run")} == {first.version}
    rows = history(tmp_path)
    assert [row[STEP] for row in rows] == sorted(row[STEP] for row in rows)
    assert [row[STEP] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6, 7]
    assert [row[STEP] for row in rows if "val/loss" in row] == [5, 6, 7]
    assert rows[-1] == {STEP: 7, "tokens": 70, "test/loss": 9.0}


def test_two_loggers_of_a_run_in_one_process_follow_each_other(tmp_path: Path) -> None:
    for last in (3, 5):
        logger = Wandb(tmp_path, offline=True)
        for step in range(1, last + 1):
            logger.log_metrics({"train/loss": 1 / step}, step)
    logger.finish()
    assert [row[STEP] for row in history(tmp_path)] == [1, 2, 3, 4, 5]


KILLED = """
import os, sys
from ptm_lightning.callbacks.record import CSVRecord
from ptm_lightning.callbacks.wandb import Wandb
loggers = [CSVRecord(sys.argv[1]), Wandb(sys.argv[1], offline=True)]
for step in range(1, 301):
    for logger in loggers:
        logger.log_metrics({"train/loss": 1 / step, "train/gradient_norm": step / 7, "tokens": 10 * step}, step)
import time; time.sleep(0.5)
os.kill(os.getpid(), 9)
"""


def test_what_a_kill_loses_is_sent_again_up_to_the_checkpoint(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    loggers = [CSVRecord(tmp_path), Wandb(tmp_path, offline=True)]
    for logger in loggers:
        logger.truncate(300)
    for step in range(301, 303):
        for logger in loggers:
            values = {"train/loss": 1 / step, "train/gradient_norm": step / 7, "tokens": 10 * step}
            logger.log_metrics(values, step)
    loggers[1].finish()  # type: ignore[union-attr]
    rows = []
    for run in runs(tmp_path):
        rows += list(torn_history(run))
    expected = [{STEP: n, "tokens": 10 * n, "train/loss": 1 / n, "train/gradient_norm": n / 7} for n in range(1, 303)]
    assert rows == expected


def torn_history(run: Path) -> Iterator[dict[str, Any]]:
    """The rows before the place where a kill tore the file."""
    [path] = run.glob("*.wandb")
    reader = read(path)
    while True:
        try:
            record = next(reader)
        except (StopIteration, AssertionError, struct.error):
            return
        row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        if row:
            yield {name: value for name, value in row.items() if not name.startswith("_")}


@pytest.mark.usefixtures("fresh_wandb")
def test_without_a_key_it_is_offline_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert len(history(tmp_path)) == 4
    assert "offline (no API key is set)" in caplog.text


@pytest.mark.usefixtures("fresh_wandb")
def test_a_key_but_no_network_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert len(history(tmp_path)) == 4
    assert "offline (http://127.0.0.1:9 doesn't answer)" in caplog.text
    assert b"0123456789012345" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.usefixtures("fresh_wandb")
def test_a_server_that_never_answers_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.setattr(module, "INIT_SECONDS", 1.0)
        logger = Wandb(tmp_path)
        fit(tmp_path, logger)
        logger.finish()
    assert len(history(tmp_path)) == 4
    assert "W&B records offline" in caplog.text


@pytest.mark.usefixtures("fresh_wandb")
def test_switched_off_by_wandbs_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert runs(tmp_path) == []


def test_no_failure_of_wandb_ends_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = wandb.init

    def init(**arguments: Any) -> Any:
        if arguments["mode"] == "disabled":
            return real(**arguments)
        raise wandb.errors.CommError("no\nservice")

    monkeypatch.setattr(wandb, "init", init)
    fit(tmp_path, Wandb(tmp_path, offline=True))
    assert said_by_us(caplog) == ["W&B failed (no); training goes on without it, and metrics.csv is the record"]


def test_a_run_that_breaks_later_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb(tmp_path, offline=True)
    logger.log_metrics({"train/loss": 1.0}, 1)
    run: Any = logger.run

    class Broken:
        id = run.id

        def log(self, row: dict[str, Any]) -> None:
            raise ConnectionResetError("gone")

    logger._run = Broken()  # type: ignore[assignment]
    logger.log_metrics({"train/loss": 1.0}, 2)
    logger.log_metrics({"train/loss": 1.0}, 3)
    logger.finish()
    module.close(run)
    assert [row[STEP] for row in history(tmp_path)] == [1]
    assert said_by_us(caplog)[1:] == ["W&B failed (gone); training goes on without it, and metrics.csv is the record"]


def test_only_the_first_process_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    second = Wandb(tmp_path, offline=True)
    second.log_hyperparams({"a": 1})
    second.log_metrics({"train/loss": 1.0}, 1)
    second.log_table("t", ["a"], [["b"]], 1)
    second.run.log({"a": 1})
    second.finalize("success")
    second.finish()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    first = Wandb(tmp_path, offline=True)
    first.log_metrics({"train/loss": 1.0}, 1)
    first.finish()
    assert len(runs(tmp_path)) == 1


def test_reachable_looks_for_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert reachable("http://wandb.invalid")
    assert not reachable(f"http://127.0.0.1:{port}")


def test_a_hanging_name_server_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_server, "REACH_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(3))
    begin = time.monotonic()
    assert not reachable("https://api.wandb.ai")
    assert time.monotonic() - begin < 2


def test_a_key_in_netrc_counts(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert netrc_has_key("https://api.wandb.ai")
    (tmp_path / "netrc").write_text("machine example.org login user password x\n")
    assert not netrc_has_key("https://api.wandb.ai")


def test_unsent_is_what_comes_after_the_end() -> None:
    row = {"train/loss": 1, "val/loss": 2, "test/loss": 3}
    sent = Sent(5, frozenset({"train/loss"}))
    assert unsent(row, 6, sent) == row
    assert unsent(row, 5, sent) == {"val/loss": 2, "test/loss": 3}
    assert unsent(row, 4, sent) == {"test/loss": 3}


def test_the_servers_summary_tells_its_end() -> None:
    assert server_history({}) == Sent(-1, frozenset())
    assert server_history({STEP: 7, "a": 1}) == Sent(7, frozenset({STEP, "a"}))


def test_csv_rows_are_grouped_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,metric,value\n1,10,a,0.5\n1,10,b,nan\n2,,a,1.5\n3,30,a,2.5\n4,4")
    first, second = csv_rows(path, 2)
    assert first[:2] == (1, 10.0)
    assert first[2].keys() == {"a", "b"}
    assert second == (2, None, {"a": 1.5})


def test_an_image_is_a_file_of_the_run(tmp_path: Path) -> None:
    draw(Curves("t", "x", "y", {"one": ([0.0, 1.0], [0.0, 1.0])}), tmp_path / "one.png")
    logger = Wandb(tmp_path, offline=True)
    logger.log_image("val/one", tmp_path / "one.png", 5)
    logger.finish()
    [row] = history(tmp_path)
    assert (row[STEP], row["val/one"]["_type"]) == (5, "image-file")
    [kept] = tmp_path.rglob(f"media/images/**/{Path(row['val/one']['path']).name}")
    assert kept.read_bytes() == (tmp_path / "one.png").read_bytes()


@pytest.mark.usefixtures("fresh_wandb")
def test_a_real_run_is_recorded_and_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--model.overrides", json.dumps(tiny("bert")), "--data.vocab_size=600", "--data.max_length=32"]
    often = ["--trainer.log_every_n_steps=2", "--trainer.accelerator=cpu", "--trainer.max_steps=6"]
    command = ["fit", "--config=mlm", "--config=wandb", f"--data.train={corpus}", "--run_dir=run", *small, *often]
    assert main(command) == 0
    wandb.teardown()
    screen = capfd.readouterr()
    assert "wandb" not in screen.out.rpartition("next:")[2]
    assert screen.err.count("wandb sync") == 1
    rows = history(Path("run"))
    assert [row[STEP] for row in rows] == sorted(row[STEP] for row in rows)
    logged = {"tokens", "train/loss", "train/learning_rate", "train/gradient_norm", "val/loss"}
    assert logged | {"speed/tokens_per_second"} <= {name for row in rows for name in row}
    tables = [a for a in records(Path("run"), "artifact") if a.type == "run_table"]
    masked = json.loads(Path(tables[-1].manifest.contents[0].local_path).read_text())
    assert masked["columns"] == ["text", "targets", "guesses", "loss"]
    assert "[MASK]" in masked["data"][0][0]
    [*_, model] = [a for a in records(Path("run"), "artifact") if a.type == "model"]
    assert {"best", "latest"} == set(model.aliases)
    assert config(Path("run"))["model"]["seed"] == 0

    assert main(["fit", "--resume=run", "--trainer.max_steps=10"]) == 0
    wandb.teardown()
    assert len({record.run_id for record in records(Path("run"), "run")}) == 1
    steps = [row[STEP] for row in history(Path("run")) if "train/loss" in row]
    assert steps == [2, 4, 6, 8, 10]
