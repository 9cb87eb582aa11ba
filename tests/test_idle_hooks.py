"""Hooks that do nothing aren't called in training; all others are, in Lightning's order."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from ptm_lightning.tasks import MaskedLM, MaskedLMData

from ptm_lightning import idle_hooks
from ptm_lightning.idle_hooks import EACH_BATCH


class Every(Callback):
    """Notes each hook that it is called for."""

    def __init__(self) -> None:
        self.called: list[str] = []


def _note(name: str) -> Any:
    def hook(self: Every, *arguments: Any, **named: Any) -> None:
        self.called.append(name)

    return hook


for each in EACH_BATCH:
    setattr(Every, each, _note(each))


class Some(MaskedLM):
    """A task with hooks of its own."""

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        self.zeroed = getattr(self, "zeroed", 0) + 1


def train(tmp_path: Any, task: MaskedLM, *callbacks: Callback, **settings: Any) -> Trainer:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"the cat sat on mat number {number}" for number in range(50)))
    data = MaskedLMData(
        train=[str(corpus)],
        vocab_size=80,
        batch_size=4,
        validation_share=0.2,
        split_text="line",
        cache_dir=str(tmp_path / "cache"),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        **settings,
    )
    trainer.fit(task, data)
    return trainer


OVERRIDES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}


def test_whoever_overrides_a_hook_is_called(tmp_path: Any):
    zeroed: list[int] = []
    by_function = LambdaCallback(on_before_zero_grad=lambda *_: zeroed.append(1))
    every, task = Every(), Some(overrides=OVERRIDES)
    train(tmp_path, task, every, by_function)
    order = ("on_train_batch_start", "on_before_backward", "on_after_backward")
    assert [name for name in every.called if name in order] == [*order] * 3
    assert {name: every.called.count(name) for name in EACH_BATCH} == dict.fromkeys(EACH_BATCH, 3)
    assert len(zeroed) == task.zeroed == 3


def test_what_nobody_overrides_is_hidden(tmp_path: Any):
    idle, task = Callback(), MaskedLM(overrides=OVERRIDES)
    trainer = train(tmp_path, task, idle)
    assert all(getattr(idle, name) is None for name in EACH_BATCH)
    own = [name for name in EACH_BATCH if getattr(task, name) is not None]
    assert own == ["on_train_batch_start", "on_before_optimizer_step"]
    again: Any = trainer
    assert isinstance(again.profiler, PassThroughProfiler)
    assert again.profiler.profile("anything") is again.profiler.profile("else")


def test_a_profiler_that_is_asked_for_stays(tmp_path: Any):
    profiler = SimpleProfiler()
    train(tmp_path, MaskedLM(overrides=OVERRIDES), profiler=profiler)
    assert "run_training_batch" in profiler.recorded_durations


def test_nothing_else_changes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    hidden, plain = MaskedLM(overrides=OVERRIDES), MaskedLM(overrides=OVERRIDES)
    train(tmp_path, hidden)
    monkeypatch.setattr(idle_hooks, "EACH_BATCH", ())
    train(tmp_path, plain)
    for weight, other in zip(hidden.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, other)
