"""What a W&B run holds, offline, and that no failure of W&B ends a training."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from lightning.pytorch.utilities import rank_zero_only
from ptm_lightning.callbacks import wandb as module
from ptm_lightning.callbacks.wandb import Wandb
from wandb_runs import STEP, clean_environment, fit, fresh_wandb, history, records, runs  # noqa: F401 - fixtures

from ptm_lightning.__main__ import main
from ptm_lightning.figures import Curves
from ptm_lightning.plots import draw
from ptm_lightning.testing_case import tiny


def config(folder: Path) -> dict[str, Any]:
    sent: dict[str, Any] = {}
    for record in [*records(folder, "run"), *records(folder, "config")]:
        updates = record.config.update if record.DESCRIPTOR.name == "RunRecord" else record.update
        sent |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates}
    return sent


def said_by_us(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ptm_lightning"]


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
