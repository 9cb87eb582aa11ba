"""What a model was worth before its vocabulary was extended."""

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.log import say
from ptm_lightning.models.extend import only_ids
from ptm_lightning.models.masks import isolates
from ptm_lightning.records import write_records
from ptm_lightning.task import Task
from ptm_lightning.terms import RunningSums


class Baseline(Callback):
    """Measures the untouched model, with the tokenizer that it came with, and logs its metrics as `start/...`.

    Only where `--data.new_words` extends the vocabulary: elsewhere the validation before the first step says the same.
    New tokens make that validation worse, until they are learned; it is no fair start to tell what was gained. The
    network needs no second copy: old ids mean what they meant, and new ones aren't offered as predictions.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures on all of the validation text, unless the run goes on from a checkpoint."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.global_step or not data.link.new_tokens:
            return
        if trainer.limit_val_batches != 1.0:
            say("start/... is measured on all of the validation text, whatever --trainer.limit_val_batches says")
        assert isinstance(pl_module, Task)
        write_records(trainer.loggers, _measure(trainer, pl_module, data) | {"tokens": 0}, 0)


def _measure(trainer: Trainer, task: Task, data: Any) -> dict[str, float]:
    network = task.network
    assert network is not None
    before = replace(data, new_words=None)
    before.trainer, before.shared_tokenizer = trainer, data.given_tokenizer
    before.setup("validate")
    if not isolates(network.config):
        before.lay_out_in_rows(f"{network.config.model_type} can't isolate packed documents")
    sums = RunningSums()
    task.eval()
    with torch.no_grad(), only_ids(network, len(data.given_tokenizer)), trainer.precision_plugin.forward_context():
        for batch in before.val_dataloader():
            sums.add(task.terms(trainer.strategy.batch_to_device(batch)))
    task.train()
    return task.means(sums.over_processes(trainer.strategy, trainer.world_size), "start")
