"""Runs of W&B offline, and an independent reader of what they leave."""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from ptm_lightning.callbacks.wandb import Wandb
from torch import Tensor, nn
from torch.utils.data import DataLoader
from wandb.proto import wandb_internal_pb2

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
