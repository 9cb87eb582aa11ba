"""Real batches on the screen, before any training: what goes in, what the target is, and what the text is like."""

from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.duplicates import near_duplicate_share
from ptm_lightning.data.module import TextData
from ptm_lightning.task import Task

BATCHES = 20
"""How many batches the shares are taken over."""
ROWS = 4
DOCUMENTS_COMPARED = 2000


def print_batches(task: Task, data: TextData, trainer: Trainer) -> None:
    """Prints a few rows as the network sees them, and shares over the first batches."""
    trainer.strategy.connect(task)
    data.trainer = trainer
    task.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    batches = list(islice(data.train_dataloader(), BATCHES))
    for row in range(min(ROWS, batches[0]["input_ids"].shape[0])):
        print(f"--- row {row} of the first batch")
        print(data.show_row(batches[0], row))
    print("--- the first batches")
    for name, value in (batch_shares(batches) | _text_shares(data)).items():
        print(f"{name:<40}{value}")


def batch_shares(batches: list[Batch]) -> dict[str, str]:
    """Shares over batches: padding, targets."""
    places = sum(batch["input_ids"].numel() for batch in batches)
    tokens = sum(batch["counts"]["tokens"] for batch in batches)
    targets = sum(batch["target_index"].numel() for batch in batches)
    kept = sum(
        int((batch["input_ids"].flatten()[batch["target_index"]] == batch["targets"]).sum()) for batch in batches
    )
    labels = torch.cat([batch["labels"] for batch in batches]) if "labels" in batches[0] else None
    balance = {} if labels is None else {"rows of label 0": f"{float((labels == 0).float().mean()):.2%}"}
    return {
        "rows x places of a batch": ", ".join(f"{tuple(batch['input_ids'].shape)}" for batch in batches[:4]),
        "padding": f"{1 - tokens / places:.2%}",
        "targets among tokens": f"{targets / tokens:.2%}",
        "targets kept as they are": f"{kept / max(1, targets):.2%}",
    } | balance


def _text_shares(data: TextData) -> dict[str, Any]:
    train = data.corpus.train
    lengths = np.diff(train.offsets)
    longest = data.max_length - len(data.frame)
    info = train.info
    return {
        "documents, tokens": f"{info['documents']:,}, {info['tokens']:,}",
        "tokens of a document, median, longest": f"{int(np.median(lengths))}, {lengths.max()}",
        "documents cut into several rows": f"{(lengths > longest).mean():.2%}",
        "unknown tokens": f"{info['unknown'] / info['tokens']:.3%}",
        "exact duplicates": f"{info['duplicates'] / info['documents']:.2%}",
        "near-duplicates (sample)": f"{near_duplicate_share(train, DOCUMENTS_COMPARED):.2%}",
        "loss of a unigram model": f"{data.corpus.provenance['unigram_loss']:.3f} nats",
    }
