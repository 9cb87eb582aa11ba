"""What the clauses of the contract work with: a tiny corpus, tiny runs on it, and a record of what happens in them."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import CONFIG_MAPPING

from ptm_lightning.data.batch import Batch, target_width
from ptm_lightning.data.example_data import ExampleData
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.models.build import _quiet_transformers
from ptm_lightning.models.sizes import Size, dimensions_of
from ptm_lightning.task import Task

STEPS = 3
"""Optimizer steps of a run, where it doesn't matter how many there are."""
TINY = Size(layers=1, hidden=32, head_width=16)
"""A network of one narrow layer."""


@dataclass(eq=False)
class Recorder(Callback):
    """What can be seen of a run from outside."""

    batches: list[Batch] = field(default_factory=list)
    validation_batches: list[Batch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """By optimizer step: the sum of its micro-batches' shares."""
    rates: list[float] = field(default_factory=list)
    """The learning rate of each step."""
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    """By step, as the optimizer takes them."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """The optimizer's settings at the beginning, without its parameters."""
    initial: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    workers: int = 0
    freeze_dropout: bool = False
    _share: float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the beginning."""
        self.initial = weights_of(pl_module)
        for group in trainer.optimizers[0].param_groups:
            self.groups.append({"size": len(group["params"])} | {k: v for k, v in group.items() if k != "params"})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Records the micro-batch."""
        self.batches.append(copied(batch))
        self.workers = max(self.workers, len(active_children()))
        if self.freeze_dropout:
            switch_dropout_off(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the loss, once for each step."""
        self._share += float(outputs["loss"]) / trainer.accumulate_grad_batches
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.losses.append(self._share)
            self._share = 0.0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Records the gradient and the learning rate."""
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Records the batch."""
        self.validation_batches.append(copied(batch))

    on_test_batch_start = on_validation_batch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the end."""
        self.final = weights_of(pl_module)
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


@dataclass(frozen=True)
class Case:
    """A task under test: its classes, its arguments, and a folder to work in."""

    task_class: type[Task]
    folder: Path
    arguments: Mapping[str, Any]
    """Of every task that is built, unless a clause changes them."""
    data_arguments: Mapping[str, Any]
    """The same for the data module."""
    alternatives: Mapping[str, Any]

    def task(self, **changes: Any) -> Task:
        """A new task."""
        return self.task_class(**{**self.arguments, **changes})

    def data(self, **changes: Any) -> TaskData:
        """A new data module, with its cache in our folder."""
        return self.task_class.data_class(**{"cache_dir": str(self.cache), **self.data_arguments, **changes})

    def source(self, name: str) -> str:
        """The file of a part of the corpus: "train", "other", "validation" or "test"."""
        kind = "jsonl" if issubclass(self.task_class.data_class, ExampleData) else "txt"
        return str(self.folder / "texts" / f"{name}.{kind}")

    @property
    def cache(self) -> Path:
        """Where tokens are kept."""
        return self.folder / "cache"

    def trainer(self, *callbacks: Callback, **settings: Any) -> Trainer:
        """Lightning's own, on the CPU, silent."""
        with quiet():
            return Trainer(
                **{
                    "accelerator": "cpu",
                    "devices": 1,
                    "logger": False,
                    "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "default_root_dir": self.folder / "runs",
                    "callbacks": list(callbacks),
                    **settings,
                }
            )

    @property
    def predicts(self) -> bool:
        """Whether the data module says how to make a batch to predict for."""
        return self.task_class.data_class.predict_batch is not TaskData.predict_batch

    def fit(
        self,
        task: Task,
        data: TaskData,
        *callbacks: Callback,
        checkpoint: Path | None = None,
        freeze_dropout: bool = False,
        **settings: Any,
    ) -> Recorder:
        """Trains for a few steps and validates at the end.

        Args:
            task: The task.
            data: Its data module.
            *callbacks: More of them.
            checkpoint: Goes on from there.
            freeze_dropout: Trains without dropout.
            **settings: The trainer's, such as accumulate_grad_batches.

        Returns:
            What was seen.
        """
        recorder = Recorder(freeze_dropout=freeze_dropout)
        validate = {"check_val_every_n_epoch": None, "val_check_interval": STEPS}
        trainer = self.trainer(recorder, *callbacks, **{"max_steps": STEPS, **validate, **settings})
        with quiet():
            trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        return recorder

    def ready(self, data: TaskData) -> Task:
        """A task that has met its data and is yet untrained."""
        task = self.task()
        self.fit(task, data, max_steps=0)
        return task

    def epoch(self, data: TaskData, accumulate: int = 1) -> list[Batch]:
        """The batches of the first epoch, as the trainer would get them."""
        self._set_up(data, accumulate)
        return list(data.train_dataloader())

    def validation(self, data: TaskData) -> list[Batch]:
        """The batches of a validation."""
        self._set_up(data, 1)
        return list(data.val_dataloader())

    def _set_up(self, data: TaskData, accumulate: int) -> None:
        trainer = self.trainer(accumulate_grad_batches=accumulate)
        trainer.strategy.connect(self.task())
        data.trainer = trainer
        data.prepare_data()
        data.setup("fit")

    @cached_property
    def trained(self) -> tuple[Recorder, Path]:
        """A short run, and the checkpoint of its end."""
        task = self.task()
        saver = ModelCheckpoint(self.folder / "trained", filename="{step}", every_n_train_steps=STEPS)
        recorder = self.fit(task, self.data(), saver)
        return recorder, Path(saver.best_model_path)

    def loaded(self) -> Task:
        """The trained task, from nothing but its checkpoint, ready to evaluate."""
        with quiet():
            return self.task_class.load_from_checkpoint(self.trained[1], map_location="cpu", weights_only=True).eval()

    @contextmanager
    def without_data(self) -> Iterator[None]:
        """For a while, the texts and the cache are gone."""
        hidden = []
        try:
            for name in ("texts", "cache"):
                hidden.append((self.folder / name).rename(self.folder / f"hidden_{name}"))
            yield
        finally:
            for path in hidden:
                path.rename(path.with_name(path.name.removeprefix("hidden_")))


def tiny(architecture: str) -> dict[str, Any]:
    """The `overrides` that give an architecture one narrow layer; {} where its dimensions have names of their own."""
    return dict(dimensions_of(CONFIG_MAPPING[architecture], TINY))


def switch_dropout_off(module: nn.Module) -> None:
    """The networks behave as in evaluation, while the task itself still trains."""
    for child in module.children():
        child.eval()


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def copied(batch: Any) -> Any:
    """A copy that later changes don't reach."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in batch.items()}


def digest(value: Any) -> str:
    """A hash of tensors and plain values, nested in mappings and sequences: equal for equal ones only."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        text = f"{value.dtype} {tuple(value.shape)} ".encode() + flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        text = repr([(name, digest(item)) for name, item in sorted(value.items())]).encode()
    elif isinstance(value, list | tuple):
        text = repr([digest(item) for item in value]).encode()
    else:
        text = repr(value).encode()
    return blake2b(text, digest_size=16).hexdigest()


def rows_of(batches: Sequence[Batch]) -> Iterator[str]:
    """A hash of each row: its real places, and what the batch says of it."""
    for batch in batches:
        real = batch["document_ids"] > 0
        rows, width = len(real), target_width(batch)
        index = batch.get("target_index", torch.zeros(0, dtype=torch.long))
        for row in range(rows):
            mine = index // width == row
            values: dict[str, Any] = {"places": index[mine] % width}
            if "decoder_input_ids" in batch:
                values["decoder"] = batch["decoder_input_ids"][row, : int(batch["decoder_lengths"][row])]
            for name, value in batch.items():
                if not isinstance(value, Tensor) or name in ("target_index", "decoder_input_ids"):
                    continue
                if name in ("targets", "fresh", "chances", "words"):
                    values[name] = value[mine]
                elif value.shape[:2] == real.shape:
                    values[name] = value[row, real[row]]
                elif len(value) == rows:
                    values[name] = value[row]
            yield digest(values)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the notes, warnings and progress bars of the libraries away."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), _quiet_transformers():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
