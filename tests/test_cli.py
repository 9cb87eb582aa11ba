"""The command line, driven in-process on a tiny corpus."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_run import DATA, LAYOUT, fit, metrics
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from ptm_lightning.__main__ import main
from ptm_lightning.data.example_data import ExampleData
from ptm_lightning.data.module import TextData
from ptm_lightning.origin import NETWORK
from ptm_lightning.plugins import find_class, load_plugins
from ptm_lightning.presets import merge, preset_names, read_layer
from ptm_lightning.run import read_config, read_state
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        assert fit(corpus, "--trainer.max_steps=12", "--trainer.log_every_n_steps=4", "--run_dir", str(folder)) == 0
    return folder


def test_a_run_folder_holds_everything(trained: Path):
    assert read_state(trained)["state"] == "finished"
    names = {row["metric"] for row in metrics(trained)}
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "val/loss", "val/loss_new_sentences"} <= names
    assert {row["step"] for row in metrics(trained) if row["metric"] == "val/loss"} >= {"0", "12"}
    assert list((trained / "checkpoints").glob("step=*.ckpt"))
    AutoModelForMaskedLM.from_pretrained(trained / "model")
    assert AutoTokenizer.from_pretrained(trained / "model").mask_token == "[MASK]"


def test_a_budget_in_tokens_or_hours_ends_the_run(here: Path, corpus: Path):
    assert fit(corpus, "--max_tokens=3e3", "--run_dir=tokens") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "tokens") if row["tokens"]) in range(3_000, 3_600)
    assert fit(corpus, "--resume=tokens", "--max_tokens=5e3") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "tokens") if row["tokens"]) in range(5_000, 5_600)
    assert read_config(here / "tokens")["max_tokens"] == 5_000
    assert fit(corpus, "--max_hours=0.001", "--run_dir=hours") == 0
    (here / "limit.yaml").write_text("max_tokens: 2e3\n")
    assert fit(corpus, "--config=limit.yaml", "--run_dir=yaml") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "yaml") if row["tokens"]) in range(2_000, 2_600)


def test_the_summary_says_what_was_learned_and_what_is_next(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    screen = capfd.readouterr()
    for text in ("val/loss", "at step 0", "unigram model loss", "guesses", "next:    python -m ptm_lightning predict"):
        assert text in screen.out
    assert "parameters" in screen.out + screen.err


def test_a_run_without_a_record_ends_well(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=1", "--run_dir=run", "--trainer.logger=false") == 0
    screen = capfd.readouterr().out
    assert "model:   run/model" in screen
    assert "metrics:" not in screen


def test_equal_seeds_are_equal_runs(here: Path, corpus: Path):
    for name in ("one", "two"):
        assert fit(corpus, "--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--run_dir", name, "--seed=3") == 0
    assert fit(corpus, "--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--run_dir=three", "--seed=4") == 0
    assert metrics(here / "one") == metrics(here / "two") != metrics(here / "three")


def test_validate_and_predict_with_the_run(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["validate", "--run_dir", str(trained)]) == 0
    assert "val/perplexity" in capfd.readouterr().out
    assert main(["predict", "--run_dir", str(trained), "--text", "the [MASK] of it"]) == 0
    row = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert row["text"] == "the [MASK] of it"
    assert len(row["guesses"][0]) == 5


def test_two_processes_evaluate_every_document_once(trained: Path):
    program = [sys.executable, "-m", "ptm_lightning", "validate", "--run_dir", str(trained)]
    several = ["--data.batch_tokens=128", "--trainer.accelerator=cpu"]  # 11 batches

    def screen(processes: int) -> str:
        run = subprocess.run([*program, *several, f"--trainer.devices={processes}"], capture_output=True, text=True)
        return run.stdout

    assert "\nval/loss " in screen(1)
    assert screen(2) == screen(1)


def test_predict_keeps_ids_and_order(trained: Path, here: Path):
    rows = [{"id": name, "text": f"{name} is [MASK]"} for name in ("b", "a", "c")]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", "--run_dir", str(trained), "--data.predict", "in.jsonl", "--output", "out.jsonl"]) == 0
    assert [json.loads(line)["id"] for line in (here / "out.jsonl").read_text().splitlines()] == ["b", "a", "c"]


def test_export_of_the_last_checkpoint(trained: Path, here: Path):
    assert main(["export", "--run_dir", str(trained), "--checkpoint", "last", "--output", "folder"]) == 0
    assert (here / "folder" / "model.safetensors").exists()


def test_export_of_auxiliary_networks_where_there_are_none(
    trained: Path, here: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["export", "--run_dir", str(trained), "--auxiliary", "--output", "folder"]) == 2
    assert "error: --auxiliary: MaskedLM has no network beside the one that is exported" in capfd.readouterr().err
    assert not (here / "folder").exists()


@pytest.mark.parametrize("what", ["a run", "a checkpoint", "a folder"])
def test_init_from_takes_the_weights(what: str, trained: Path, here: Path, corpus: Path):
    checkpoint = next((trained / "checkpoints").glob("*.ckpt"))
    source = {"a run": trained, "a checkpoint": checkpoint, "a folder": trained / "model"}[what]
    arguments = ["fit", "--model", "MaskedLM", "--data.train", str(corpus), *LAYOUT, "--init_from", str(source)]
    assert main([*arguments, "--trainer.max_steps=1", "--run_dir=run"]) == 0
    first = [float(row["value"]) for row in metrics(trained) if row["metric"] == "val/loss"]
    begun = [float(row["value"]) for row in metrics(here / "run") if row["metric"] == "val/loss"]
    assert begun[0] < first[0]
    told, before = read_config(here / "run")["model"], read_config(trained)["model"]
    if what == "a folder":
        assert told["backbone"] == str(source)
    else:
        assert [told[name] for name in NETWORK] == [before[name] for name in NETWORK]


def test_dry_run_leaves_nothing(here: Path, corpus: Path):
    assert fit(corpus, "--trainer.max_steps=4", "--dry_run") == 0
    assert not (here / "runs").exists()


def test_init_from_another_tasks_run_takes_its_body(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    limits = ["--trainer.max_steps=1", "--run_dir=topics", "--model.learning_rate=1e-9", "--data.max_length=32"]
    assert main(["fit", "--config=classification", f"--init_from={trained}", *limits]) == 0
    said = f"--init_from {trained}: is an AutoModelForMaskedLM; starting from {trained / 'model'}"
    assert said in capfd.readouterr().err
    pretrained = AutoModelForMaskedLM.from_pretrained(trained / "model")
    tuned = AutoModelForSequenceClassification.from_pretrained(here / "topics" / "model")
    for name, weight in pretrained.bert.named_parameters():
        torch.testing.assert_close(tuned.bert.get_parameter(name), weight, atol=1e-6, rtol=0)


SUMMED_UP = {"document": "Returns the number of items. The list may be empty. Nothing is changed."}
ASKED: dict[str, dict[str, Any]] = {
    "classification": {"text": "Returns the number of items in the list."},
    "token_classification": {"tokens": ["Calls", "os.path.join", "with", "2", "arguments"]},
    "question_answering": {"question": "What does it return?", "context": "Returns the number of items in the list."},
    "summarization": SUMMED_UP,
    "summarization_causal": SUMMED_UP,
    "translation": {"en": "two, one"},
    "dialogue": {"messages": ["And then?"]},
}
"""A row to predict for, by the preset of a downstream task."""


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_runs(here: Path, corpus: Path, preset: str):
    """And of downstream tasks, on their built-in examples, the test and predictions."""
    presets = ["--config", "default", "--config", preset] if preset == "wandb" else ["--config", preset]
    load_plugins()
    model = merge(read_layer(name).values for name in presets[1::2])["model"]
    task = find_class(model["class_path"], Task, "--model")
    architecture = model.get("architecture", task.architecture)
    size = f"--model.overrides={json.dumps((model.get('overrides') or {}) | tiny(architecture))}"
    limits = ["--trainer.max_steps=2", "--run_dir=run"]
    text = ["--data.train", str(corpus)] if issubclass(task.data_class, TextData) else []  # else its own example
    text += [f"--data.parts.general.train={corpus}"] if preset == "adapt" else []
    text += ["--data.max_target_length=12"] if preset in ("dialogue", "summarization_causal") else []
    assert main(["fit", *presets, *text, size, *DATA, *limits]) == 0
    if not issubclass(task.data_class, ExampleData):
        return
    assert main(["test", "--run_dir=run"]) == 0
    rows = [row for row in metrics(Path("run")) if row["metric"].startswith("val/")]
    assert {"0", "2"} <= {row["step"] for row in rows}
    assert any(row["metric"] == f"val/{task.headline[0]}" for row in rows)
    Path("asked.jsonl").write_text("".join(json.dumps({"id": name} | ASKED[preset]) + "\n" for name in "ba"))
    assert main(["predict", "--run_dir=run", "--data.predict=asked.jsonl", "--output=out.jsonl"]) == 0
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == ["b", "a"]
    assert found[0]["prediction"] == found[1]["prediction"]
    assert isinstance(found[0]["prediction"], list if preset == "token_classification" else str)
