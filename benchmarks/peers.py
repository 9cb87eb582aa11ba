"""Ours and the peers, each training for a few steps in a process of its own: `python peers.py '{"what": "ours", ...}'`.

All start from the same folder (network and tokenizer), read the same documents and are timed by the same clock. The
peers are called as their own examples do: rows cut at 128 tokens and padded in each batch of 32 (what is cut off is
lost to them, which spares them padding), or all text in blocks of 128. Only fp32 or bf16 is set; nothing is tuned.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from agreement import differences
from clock import WARM_UP, Clock, ClockCallback, Job, Size
from lightning.pytorch import Callback, LightningModule, Trainer
from ptm_lightning.callbacks import Budget, Checkpoints, CSVRecord, FiniteLoss, Progress, RegularValidation, Throughput
from ptm_lightning.tasks import MaskedLM, MaskedLMData
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.models.build import build_network
from ptm_lightning.models.config import build_config
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.task import Task

PER_STEP: tuple[type[Callback], ...] = (Budget, RegularValidation, Throughput, Progress, FiniteLoss)
"""What the command line's runs have that looks at each step, but for checkpoints."""
LOG_EVERY = 20
"""Steps, as the command line has it."""
ROWS = 32
"""A peer's batch."""
PEER_DOCUMENTS = 20_000
"""Drawn from the corpus for the peers: more than they get to."""


def our_data(job: Job) -> MaskedLMData:
    """The data module of a job, whose tokenizer lies in the folder."""
    return MaskedLMData(
        train=job.text,
        tokenizer=job.folder,
        max_length=job.max_length,
        batch_tokens=job.batch_tokens,
        layout=job.layout,
        cache_dir=job.cache,
    )


def prepare(job: Job) -> dict[str, float]:
    """Trains the tokenizer, draws the initial weights, and writes the token store and the peers' data sets."""
    import datasets  # type: ignore[import-untyped]

    folder = Path(job.folder)
    data = MaskedLMData(train=job.text, tokenizer="train", vocab_size=job.vocab_size, max_length=job.max_length)
    data.setup("fit")
    config = build_config(
        "bert",
        job.size,
        None,
        vocab_size=data.link.vocabulary,
        max_length=job.max_length,
        special_ids=data.link.special_ids,
    )
    save(build_network("AutoModelForMaskedLM", config, seed=0), data, folder)
    data = our_data(job)
    data.setup("fit")
    store = data.corpus.train
    drawn = np.random.default_rng(0).permutation(len(store))[:PEER_DOCUMENTS]
    documents = [store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist() for i in drawn]
    for name, rows in (
        ("rows", [_framed(data, ids[: job.max_length - len(data.frame)]) for ids in documents]),
        ("blocks", blocks([_framed(data, ids) for ids in documents], job.max_length)),
    ):
        special = set(data.hf_tokenizer.all_special_ids)
        masks = [[int(token in special) for token in row] for row in rows]
        datasets.Dataset.from_dict({"input_ids": rows, "special_tokens_mask": masks}).save_to_disk(folder / name)
    return {"vocabulary": data.link.vocabulary, "documents": len(store), "tokens": int(store.offsets[-1])}


def _framed(data: MaskedLMData, ids: list[int]) -> list[int]:
    return [*data.frame.before, *ids, *data.frame.after]


def blocks(rows: list[list[int]], width: int) -> list[list[int]]:
    """As the examples' `group_texts`: everything in one line, cut, the rest dropped."""
    line = [token for row in rows for token in row]
    return [line[i : i + width] for i in range(0, len(line) // width * width, width)]


def ours(job: Job) -> dict[str, float]:
    """MaskedLM and its data in Lightning's Trainer, with the kernels and per-step callbacks of the command line."""
    task = MaskedLM(backbone=job.folder)
    clock = train_ours(job, task, our_data(job))
    assert task.network is not None
    return clock.result(task.network)


def train_ours(job: Job, task: Task, data: TaskData, *others: Callback) -> Clock:
    """Trains; the data module stays with its trainer and would go on after the last step.

    Args:
        job: The work.
        task: The network.
        data: Its data.
        others: Callbacks beside those that look at each step.
    """
    prepare_cpu()
    clock = Clock()
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            accelerator="cpu",
            devices=job.devices,
            precision="bf16-mixed" if job.precision == "bf16" else "32-true",
            max_steps=WARM_UP + job.steps,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            log_every_n_steps=LOG_EVERY,
            logger=CSVRecord(scratch),
            callbacks=[*(callback() for callback in PER_STEP), *others, ClockCallback(clock, ours=True)],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(callback, Checkpoints) for callback in others),
            default_root_dir=scratch,
        )
        trainer.fit(task, data)
    return clock


def _peer_data(job: Job, clock: Clock) -> tuple[Any, Callable[[list[Any]], dict[str, Tensor]]]:
    import datasets
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(job.folder), mlm_probability=0.15)
    return datasets.load_from_disk(Path(job.folder) / job.layout), partial(counted, collator, clock)


def counted(collator: Callable[[list[Any]], dict[str, Tensor]], clock: Clock, rows: list[Any]) -> dict[str, Tensor]:
    """A batch by transformers' collator; the clock is told its size."""
    tokens = sum(len(row["input_ids"]) for row in rows)
    batch = collator(rows)
    places, width = batch["input_ids"].numel(), batch["input_ids"].shape[1]
    clock.sizes.append(Size(places, width, tokens, places))
    return batch


def _network(job: Job) -> Any:
    from transformers import AutoModelForMaskedLM

    # From a folder it comes without dropout, and Lightning leaves it so.
    return AutoModelForMaskedLM.from_pretrained(job.folder).train()


def transformers_trainer(job: Job) -> dict[str, float]:
    """Peer 1: transformers.Trainer with DataCollatorForLanguageModeling."""
    clock = Clock()
    return run_trainer(job, _network(job), *_peer_data(job, clock), clock)


def run_trainer(
    job: Job, network: Any, dataset: Any, collator: Any, clock: Clock, **arguments: Any
) -> dict[str, float]:
    """transformers.Trainer as its examples call it; the collator tells the clock what batches hold."""
    import transformers

    class Timed(transformers.TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.end()

    with TemporaryDirectory() as scratch:
        settings = transformers.TrainingArguments(
            output_dir=scratch,
            max_steps=WARM_UP + job.steps,
            per_device_train_batch_size=ROWS,
            use_cpu=True,
            bf16=job.precision == "bf16",
            report_to="none",
            save_strategy="no",
            **arguments,
        )
        transformers.Trainer(
            network, settings, data_collator=collator, train_dataset=dataset, callbacks=[Timed()]
        ).train()
    return clock.result(network)


class Plain(LightningModule):
    """What one writes with Lightning in a minute.

    Args:
        network: Of transformers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The network's own loss."""
        loss: Tensor = self.network(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW as it comes."""
        return torch.optim.AdamW(self.parameters(), lr=5e-5)


def plain_lightning(job: Job) -> dict[str, float]:
    """Peer 2: Lightning's Trainer as it comes, around AutoModelForMaskedLM."""
    clock = Clock()
    dataset, collator = _peer_data(job, clock)
    loader: Any = DataLoader(dataset, batch_size=ROWS, shuffle=True, collate_fn=collator)
    module = Plain(_network(job))
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if job.precision == "bf16" else "32-true",
            max_steps=WARM_UP + job.steps,
            default_root_dir=scratch,
            callbacks=[ClockCallback(clock, ours=False)],
        )
        trainer.fit(module, loader)
    return clock.result(module.network)


def agree(job: Job) -> dict[str, float]:
    """`differences` of ours and of the peers' network."""
    data = our_data(job)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    network = _network(job)
    labels = torch.full_like(batch["input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": (batch["document_ids"] > 0).long()}
    inputs["labels"] = labels.view_as(batch["input_ids"])
    return differences(job, MaskedLM(backbone=job.folder), data, batch, network, inputs)


def save(network: PreTrainedModel, data: TaskData, folder: Path) -> None:
    """Writes what ours and the peers start from."""
    network.save_pretrained(folder)
    data.hf_tokenizer.save_pretrained(folder)


WORK: dict[str, Callable[[Job], dict[str, float]]] = {
    "prepare": prepare,
    "agree": agree,
    "ours": ours,
    "trainer": transformers_trainer,
    "lightning": plain_lightning,
}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
