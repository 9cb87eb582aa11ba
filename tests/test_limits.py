"""Settings of Lightning's Trainer that would break or ignore the plan are refused, with the flag."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from ptm_lightning.tasks import MaskedLM, MaskedLMData

from ptm_lightning.errors import UserError
from ptm_lightning.limits import steps_of_run


def fit(folder: Path, corpus: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    limits = {"enable_checkpointing": False, "max_steps": 2, "default_root_dir": folder, "limit_val_batches": 0}
    task = MaskedLM(overrides={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    data = MaskedLMData(train=[str(corpus)], vocab_size=600, max_length=32, batch_tokens=256, validation_share=0.1)
    trainer = Trainer(**(quiet | limits | settings))
    trainer.fit(task, data)
    return trainer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"limit_train_batches": 5, "accumulate_grad_batches": 2},
            "--trainer.limit_train_batches 5 cuts an optimizer step of 2 micro-batches; give a multiple",
        ),
        (
            {"limit_train_batches": 0.5},
            "--trainer.limit_train_batches 0.5: a share may cut an optimizer step; give a number of micro-batches",
        ),
        (
            {"overfit_batches": 3},
            "--trainer.overfit_batches 3: every step has its own batch; "
            "train on a small file with --data.train and --trainer.max_epochs instead",
        ),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 4})]},
            "--trainer.callbacks: GradientAccumulationScheduler changes the steps that the data are planned for; "
            "use --trainer.accumulate_grad_batches",
        ),
        (
            {"reload_dataloaders_every_n_epochs": 1},
            "--trainer.reload_dataloaders_every_n_epochs 1 changes nothing: every epoch has its own order anyway; "
            "leave it out",
        ),
        (
            {"use_distributed_sampler": False},
            "--trainer.use_distributed_sampler false changes nothing: the processes share the plan; leave it out",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_breaks_or_ignores_the_plan_is_refused(
    settings: dict[str, Any], message: str, corpus: Path, tmp_path: Path
):
    with pytest.raises(UserError) as raised:
        fit(tmp_path, corpus, **settings)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"max_steps": 40}, 40),
        ({"max_epochs": 3}, 15),
        ({"max_steps": 40, "max_epochs": 3}, 15),
        ({"max_steps": 4, "max_epochs": 3}, 4),
        ({"max_steps": 0, "max_epochs": 3}, 0),
        ({"max_epochs": 3, "limit_train_batches": 4, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 3, "limit_train_batches": 400}, 15),
    ],
    ids=str,
)
def test_a_run_is_as_long_as_the_first_of_its_limits(limits: dict[str, int], total: int):
    """An epoch has 5 steps."""
    settings: dict[str, Any] = limits
    trainer = Trainer(**settings, accelerator="cpu", logger=False, enable_progress_bar=False)
    assert steps_of_run(trainer, lambda epoch: 5) == total


def test_what_keeps_to_the_plan_is_taken(corpus: Path, tmp_path: Path):
    trainer = fit(tmp_path, corpus, limit_train_batches=4, accumulate_grad_batches=2, max_steps=-1, max_epochs=2)
    assert trainer.global_step == 4
