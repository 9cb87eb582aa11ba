"""A run whose batches are a function of the step, with dropout, averaging and clipping, and notes of all it does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

STEPS_OF_EPOCHS = [5, 3, 4]


class Plan:
    """Iterates over the epoch's micro-batches from the step on where the trainer is."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        epoch, step = 0, self.trainer.global_step
        while epoch < len(STEPS_OF_EPOCHS) - 1 and step >= STEPS_OF_EPOCHS[epoch]:
            step -= STEPS_OF_EPOCHS[epoch]
            epoch += 1
        micro = self.trainer.accumulate_grad_batches
        for index in range(step * micro, STEPS_OF_EPOCHS[epoch] * micro):
            generator = torch.Generator().manual_seed(1000 * epoch + index)
            yield torch.randn(3, 4, generator=generator), epoch


class Data(LightningDataModule):
    def train_dataloader(self) -> Plan:
        assert self.trainer is not None
        return Plan(self.trainer)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.randn(6, 4, generator=torch.Generator().manual_seed(3)), 2)  # type: ignore[arg-type]


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.events: list[tuple[Any, ...]] = []
        self.validation_losses: dict[int, float] = {}
        self.during: Callable[[Model, str, int], None] = lambda module, what, index: None

    def note(self, *what: Any) -> None:
        logged_as = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        self.events.append((*what, self.global_step, self.current_epoch, logged_as))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        micro = self.trainer.accumulate_grad_batches
        torch.default_generator.manual_seed(self.global_step * 100 + batch_idx % micro)

    def training_step(self, batch: tuple[Tensor, int], batch_idx: int) -> Tensor:
        self.during(self, "training", batch_idx)
        loss: Tensor = self.net(batch[0]).pow(2).sum()
        self.note("train", batch_idx, batch[1], loss.item())
        return loss

    def on_train_epoch_start(self) -> None:
        self.note("epoch starts")

    def on_train_epoch_end(self) -> None:
        self.note("epoch ends")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.during(self, "validation", batch_idx)
        loss = self.net(batch).pow(2).sum()
        self.log("val/loss", self.validation_losses.get(self.global_step, loss))
        if not self.trainer.sanity_checking:
            self.note("validate", batch_idx, loss.item())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer_of(root: Path, *callbacks: Callback, validate: str = "steps", **settings: Any) -> Trainer:
    micro = settings.get("accumulate_grad_batches", 1)
    when: dict[str, Any] = {
        "steps": {"val_check_interval": 2 * micro, "check_val_every_n_epoch": None},
        "epoch": {"val_check_interval": 1.0},
        "never": {"limit_val_batches": 0},
    }[validate]
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
        "max_steps": 12,
        "max_epochs": -1,
    }
    return Trainer(
        default_root_dir=root, callbacks=[EMAWeightAveraging(decay=0.9), *callbacks], **(defaults | when | settings)
    )


def equal(one: Model, other: Model) -> bool:
    """Whether the weights are, bit by bit."""
    return all(map(torch.equal, one.parameters(), other.parameters()))
