"""A finished run leaves a folder of its best checkpoint; an interrupted or failed one leaves none."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from ptm_lightning.callbacks import Checkpoints, ExportBest
from ptm_lightning.tasks import MaskedLM, MaskedLMData
from transformers import AutoModelForMaskedLM

from ptm_lightning.checkpoint import best, entry_of, read_index, step_files, write_index
from ptm_lightning.run import Interrupted

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def fit(root: Path, corpus: Path, *callbacks: Callback, ema: float | None = None, **trainer: Any) -> MaskedLM:
    task = MaskedLM(overrides=TINY, ema=ema)
    data = MaskedLMData(train=[str(corpus)], vocab_size=600, max_length=32, batch_tokens=256, validation_share=0.1)
    settings: dict[str, Any] = {
        "max_steps": 4,
        "accelerator": "cpu",
        "default_root_dir": root,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1,
    }
    Trainer(callbacks=list(callbacks), **(settings | trainer)).fit(task, data)
    return task


def step_of(folder: Path) -> int:
    step: int = json.loads((folder / "ptm_lightning.json").read_text())["step"]
    return step


def assert_holds(folder: Path, checkpoint: Path) -> None:
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in AutoModelForMaskedLM.from_pretrained(folder).state_dict().items():
        torch.testing.assert_close(value, weights[f"network.{name}"], rtol=0, atol=0)


class MakeBest(Callback):
    """Rewrites the index at the end of training, so that a chosen step is the best one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        losses = {entry.step: 1.0 if entry.step == self.step else 2.0 for entry in read_index(folder)}
        write_index(
            folder,
            [entry_of(folder / e.name, {"val/loss": losses[e.step]}, "val/loss", "min") for e in read_index(folder)],
        )


@pytest.mark.parametrize("step", [2, 4])
def test_the_best_checkpoint_is_exported(tmp_path: Path, corpus: Path, step: int):
    callback = ExportBest()
    fit(tmp_path, corpus, Checkpoints(keep_last=4), MakeBest(step), callback)
    assert callback.exported == tmp_path / "model"
    assert step_of(tmp_path / "model") == step
    assert_holds(tmp_path / "model", tmp_path / f"checkpoints/step={step:08d}.ckpt")
    assert not (tmp_path / "exports").exists()


def test_every_kept_checkpoint_is_exported(tmp_path: Path, corpus: Path):
    fit(tmp_path, corpus, Checkpoints(every_n_steps=1, keep_last=3), ExportBest(every_checkpoint=True))
    kept = step_files(tmp_path / "checkpoints")
    assert len(kept) >= 3
    assert {path.name for path in (tmp_path / "exports").iterdir()} == {path.stem for path in kept.values()}
    for step, path in kept.items():
        assert step_of(tmp_path / "exports" / path.stem) == step


def test_the_average_is_exported(tmp_path: Path, corpus: Path):
    fit(tmp_path, corpus, Checkpoints(), ExportBest(), ema=0.5)
    chosen = best(tmp_path / "checkpoints")
    assert chosen is not None
    checkpoint = torch.load(chosen, weights_only=True)
    name = "network.bert.embeddings.word_embeddings.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    assert_holds(tmp_path / "model", chosen)


def test_the_newest_is_exported_without_an_index(tmp_path: Path, corpus: Path):
    class RemoveIndex(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            (tmp_path / "checkpoints" / "index.jsonl").unlink()

    fit(tmp_path, corpus, Checkpoints(), RemoveIndex(), ExportBest())
    assert step_of(tmp_path / "model") == 4


class StopAtThree(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise self.error


@pytest.mark.parametrize("error", [Interrupted(2), RuntimeError("it broke")])
def test_a_run_that_did_not_finish_exports_nothing(tmp_path: Path, corpus: Path, error: BaseException):
    callback = ExportBest()
    with pytest.raises(type(error)):
        fit(tmp_path, corpus, Checkpoints(), StopAtThree(error), callback)
    assert step_files(tmp_path / "checkpoints")
    assert callback.exported is None
    assert not (tmp_path / "model").exists()


def test_without_checkpoints_it_says_so(tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture):
    callback = ExportBest()
    with caplog.at_level(logging.WARNING, logger="ptm_lightning"):
        fit(tmp_path, corpus, callback, enable_checkpointing=False)
    assert callback.exported is None
    assert "nothing to export" in caplog.text


def test_the_card_tells_the_recipe_of_a_run_without_a_command_line(tmp_path: Path, corpus: Path):
    fit(tmp_path, corpus, Checkpoints(), ExportBest(), gradient_clip_val=0.5)
    card = (tmp_path / "model" / "README.md").read_text()
    for row in (
        "| optimizer steps | 4 of 4 |",
        "| precision | 32-true |",
        "| `--model.overrides.hidden_size` | 16 |",
        "| `--data.vocab_size` | 600 |",
        "| `--trainer.max_steps` | 4 |",
        "| `--trainer.gradient_clip_val` | 0.5 |",
        "| loss of a unigram model, for comparison |",
        "| val/loss |",
    ):
        assert row in card
    assert "--trainer.max_epochs" not in card
    assert "--trainer.limit_train_batches" not in card
