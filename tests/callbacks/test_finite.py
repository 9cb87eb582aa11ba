from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from ptm_lightning.callbacks.checkpoints import Checkpoints
from ptm_lightning.callbacks.finite import FiniteLoss
from torch import Tensor
from toy_run import Data, Model, trainer_of

from ptm_lightning.checkpoint import SafeCheckpointIO, step_files, step_path
from ptm_lightning.errors import UserError


class Breaking(Model):
    """Its loss breaks in one micro-batch; or its weights do, and the loss with the next step."""

    def __init__(self, step: int, index: int, value: float = float("nan")) -> None:
        super().__init__()
        self.at, self.value = (step, index), value
        self.learning_rate = 0.01

    def training_step(self, batch: tuple[Tensor, int], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if (self.global_step, batch_idx) == self.at else loss


def fit(root: Path, model: Model, *callbacks: Callback, **settings: Any) -> None:
    trainer_of(root, *callbacks, validate="never", accumulate_grad_batches=2, **settings).fit(model, Data())


@pytest.mark.parametrize("index", [6, 7])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_names_the_step_and_the_last_good_checkpoint(tmp_path: Path, index: int, value: float) -> None:
    with pytest.raises(UserError) as raised:
        fit(tmp_path, Breaking(3, index, value), Checkpoints(every_n_steps=1, keep_last=9), FiniteLoss())
    good = step_path(tmp_path / "checkpoints", 3)
    assert str(raised.value) == (
        "the loss or the weights are not finite at step 4: lower --model.learning_rate (now 0.01); "
        f"{good} is the last good checkpoint, --init_from takes its weights"
    )
    assert list(step_files(tmp_path / "checkpoints")) == [1, 2, 3]
    for path in step_files(tmp_path / "checkpoints").values():
        weights = SafeCheckpointIO().load_checkpoint(path)["state_dict"].values()
        assert all(bool(weight.isfinite().all()) for weight in weights)


def test_the_first_bad_step_is_named_though_it_is_looked_at_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the look after each step, as on a GPU.
    looks: list[int] = []
    look = FiniteLoss._look

    def rarely(self: FiniteLoss, trainer: Any, module: Any) -> None:
        looks.append(trainer.global_step)
        if trainer.global_step >= 8:
            look(self, trainer, module)

    monkeypatch.setattr(FiniteLoss, "_look", rarely)
    with pytest.raises(UserError, match=r"not finite at step 6: .*; nothing was saved"):
        fit(tmp_path, Breaking(5, 0), FiniteLoss(), enable_checkpointing=False)
    assert looks == list(range(1, 9))


def test_weights_that_break_without_the_loss_are_not_saved(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                with torch.no_grad():
                    next(pl_module.parameters())[0, 0] = float("inf")

    with pytest.raises(UserError, match="not finite at step 2"):
        fit(tmp_path, Model(), Poison(), Checkpoints(every_n_steps=1), FiniteLoss())
    assert list(step_files(tmp_path / "checkpoints")) == [1]


def test_a_good_run_ends_well_and_can_be_saved_afterwards(tmp_path: Path) -> None:
    model = Model()
    trainer = trainer_of(tmp_path, FiniteLoss(), validate="never", enable_checkpointing=False)
    trainer.fit(model, Data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert model.global_step == 12
