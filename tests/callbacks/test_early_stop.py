"""Early stopping: after so many validations that weren't better, also in a run that is resumed."""

from pathlib import Path
from typing import Any

import pytest
from ptm_lightning.callbacks import Checkpoints, EarlyStop
from toy_run import Data, Model, equal, trainer_of

from ptm_lightning.checkpoint import best, newest_valid
from ptm_lightning.errors import UserError

LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: float("nan"), 10: 0.5, 12: 0.1}
"""By step: the best is that of step 4, until two more were no better."""


def fit(
    root: Path, patience: int = 2, *, resume: Path | None = None, model: Model | None = None, **settings: Any
) -> Any:
    model = model or Model()
    model.validation_losses = LOSSES
    trainer = trainer_of(root, EarlyStop(patience), Checkpoints(every_n_steps=1), **settings)
    trainer.fit(model, Data(), ckpt_path=resume, weights_only=True)
    return model, trainer


def test_training_ends_when_validation_gets_no_better(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, trainer = fit(tmp_path)
    assert trainer.global_step == 8
    assert "training ends at step 8: val/loss was best at step 4, 2 validations ago" in caplog.text
    assert Path(str(best(tmp_path / "checkpoints"))).name == "step=00000004.ckpt"
    assert Path(str(newest_valid(tmp_path / "checkpoints")[0])).name == "step=00000008.ckpt"


def test_a_longer_patience_sees_the_better_ones(tmp_path: Path) -> None:
    assert fit(tmp_path, 3)[1].global_step == 12


def test_the_metric_and_its_direction_are_the_tasks(tmp_path: Path) -> None:
    class Rising(Model):
        def best_by(self) -> tuple[str, str]:
            return "val/loss", "max"

    assert fit(tmp_path, model=Rising())[1].global_step == 6


def test_a_resumed_run_stops_where_it_would_have(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path / "whole")
    fit(tmp_path / "parts", max_steps=7)
    checkpoint, _ = newest_valid(tmp_path / "parts" / "checkpoints")
    resumed, trainer = fit(tmp_path / "parts", resume=checkpoint)
    assert trainer.global_step == 8
    assert equal(whole, resumed)
    checkpoint, _ = newest_valid(tmp_path / "parts" / "checkpoints")
    again, trainer = fit(tmp_path / "parts", resume=checkpoint)
    assert trainer.global_step == 8
    assert equal(whole, again)
    assert fit(tmp_path / "parts", 3, resume=checkpoint)[1].global_step == 12


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="patience of EarlyStop is 0, but must be at least 1"):
        EarlyStop(0)
    trainer = trainer_of(tmp_path, EarlyStop(monitor="val/los"))
    with pytest.raises(
        UserError, match=r"monitor of EarlyStop: the validation logs no 'val/los'; did you mean 'val/loss'"
    ):
        trainer.fit(Model(), Data())
