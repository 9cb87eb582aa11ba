"""Real batches on the screen, before any training: what goes in, what the target is, and what the text is like."""

from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.duplicates import near_duplicate_share
from ptm_lightning.data.example_data import field_lengths
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.target_text import TargetTextData
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.task import Task

BATCHES = 20
"""How many batches the shares are taken over."""
ROWS = 4
DOCUMENTS_COMPARED = 2000


def print_batches(task: Task, data: TaskData, trainer: Trainer) -> None:
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
    _print(batch_shares(batches, data.hf_tokenizer.mask_token_id))
    for part, member in data.members().items():
        print(f"--- the text{f' of {part}' if part else ''}")
        _print(_text_shares(member))


def _print(values: dict[str, Any]) -> None:
    for name, value in values.items():
        print(f"{name:<40}{value}")


def batch_shares(batches: list[Batch], mask_id: int | None) -> dict[str, str]:
    """Shares over batches: padding, targets, and where there are masks, what stands in the targets' places.

    With a decoder, padding of both sides together.
    """
    sides = [name for name in ("input_ids", "decoder_input_ids") if name in batches[0]]
    places = sum(batch[side].numel() for batch in batches for side in sides)
    real = sum(int((b["document_ids"] > 0).sum() + b.get("decoder_lengths", torch.zeros(1)).sum()) for b in batches)
    tokens = sum(batch["counts"]["tokens"] for batch in batches)
    targets = sum(batch["target_index"].numel() for batch in batches if "target_index" in batch)
    shapes = (" -> ".join(str(tuple(batch[side].shape)) for side in sides) for batch in batches[:4])
    shares = {
        "rows x places of a batch": ", ".join(shapes),
        "padding": f"{1 - real / places:.2%}",
    }
    if "target_index" not in batches[0]:
        return shares
    shares["targets among tokens"] = f"{targets / tokens:.2%}"
    if len(sides) > 1:
        return shares
    if mask_id is not None:
        shares |= _noise_shares(batches, mask_id)
    if "labels" in batches[0]:
        labels = torch.cat([batch["labels"] for batch in batches])
        shares["rows of label 0"] = f"{float((labels == 0).float().mean()):.2%}"
    return shares


def _noise_shares(batches: list[Batch], mask_id: int) -> dict[str, str]:
    """What stands in the targets' places; nothing where none of them is masked, as in permutations."""
    shown = torch.cat([batch["input_ids"].flatten()[batch["target_index"]] for batch in batches])
    masked, kept = shown == mask_id, shown == torch.cat([batch["targets"] for batch in batches])
    kinds = {"masked": masked, "replaced": ~masked & ~kept, "kept as they are": kept} if masked.any() else {}
    return {f"targets {what}": f"{float(those.float().mean()):.2%}" for what, those in kinds.items()}


def _text_shares(data: TaskData) -> dict[str, Any]:
    train = data.corpus.train
    info = train.info
    return {
        "documents, tokens": f"{info['documents']:,}, {info['tokens']:,}",
        **_lengths(data),
        "unknown tokens": f"{info['unknown'] / info['tokens']:.3%}",
        "near-duplicates (sample)": f"{near_duplicate_share(train, DOCUMENTS_COMPARED):.2%}",
        **data.facts(),
    }


def _lengths(data: TaskData) -> dict[str, str]:
    """How long documents are, or sources and targets, each beside its own limit."""
    kinds = [
        ("document", "documents", "max_length", np.diff(data.corpus.train.offsets), data.max_length - len(data.frame))
    ]
    if isinstance(data, TargetTextData):
        store = data.corpus.train
        assert isinstance(store, ExampleStore)
        sides = zip(field_lengths(store, np.arange(len(store))).T, data.longest, strict=True)
        names = ("source", "sources", "max_length"), ("target", "targets", "max_target_length")
        kinds = [(*name, lengths, longest) for name, (lengths, longest) in zip(names, sides, strict=True)]
    found: dict[str, str] = {}
    for one, many, limit, lengths, longest in kinds:
        found[f"tokens of a {one}, median, longest"] = f"{int(np.median(lengths))}, {lengths.max()}"
        found[f"{many} longer than {limit}"] = f"{(lengths > longest).mean():.2%}"
    return found
