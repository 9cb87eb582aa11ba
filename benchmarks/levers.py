"""Ours with one lever off, in a process of its own: `python levers.py '{"what": "the allocator", ...}'`.

A lever is what makes a step faster and leaves its loss as it is. Each is switched off where it lies, by a patch.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import peers
import torch
from clock import Job
from ptm_lightning.tasks import MaskedLM
from torch import Tensor

from ptm_lightning import levers
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.plan import Plan
from ptm_lightning.models.kernels import prepare_cpu

Lever = Callable[[], AbstractContextManager[Any]]
ALL_ON = "all on"
PEER = "Trainer with our matrix products"
ADAMW = torch.optim.AdamW


def _logits_everywhere(task: MaskedLM, batch: Batch) -> Tensor:
    """The rows that the loss reads, of the logits of all."""
    assert task.network is not None
    logits: Tensor = task.network(**task.inputs(batch)).logits
    return logits.flatten(0, 1)[batch["target_index"]]


def _mixed_lengths(plan: Plan, rows: Ints, lengths: Ints) -> list[Ints]:
    """As many rows in a batch as the peers', of any length, padded to the longest."""
    mixed = np.random.default_rng(plan.seed).permutation(rows)
    return [mixed[begin : begin + peers.ROWS] for begin in range(0, len(mixed), peers.ROWS)]


def _loops_over_tensors(*arguments: Any, fused: bool, **settings: Any) -> torch.optim.AdamW:
    """AdamW as torch has it by default on a CPU."""
    return ADAMW(*arguments, **settings)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """One of those that `fit` can do without."""
    levers.switch_off([name])
    try:
        yield
    finally:
        levers.switch_off([])


LEVERS: dict[str, Lever] = {
    ALL_ON: nullcontext,
    "logits at targets": lambda: patch.object(MaskedLM, "logits_at_targets", _logits_everywhere),
    "last layer at targets": lambda: patch("ptm_lightning.models.rows.LAST_LAYERS", frozenset()),
    "length buckets": lambda: patch.object(Plan, "_cut", _mixed_lengths),
    **{name: partial(_without, name) for name in levers.LEVERS},
    "fused AdamW": lambda: patch("torch.optim.AdamW", _loops_over_tensors),
}
"""What switches each off, by name."""


def trainer_with_our_matrix_products(job: Job) -> dict[str, float]:
    """transformers.Trainer, with the faster library that ours found."""
    with _without("allocator"):
        prepare_cpu()
    return peers.transformers_trainer(job)


def work(job: Job) -> dict[str, float]:
    """Trains with one lever off."""
    if job.what == PEER:
        return trainer_with_our_matrix_products(job)
    with LEVERS[job.what]():
        return peers.ours(replace(job, what="ours"))


if __name__ == "__main__":
    print(json.dumps(work(Job(**json.loads(sys.argv[1])))))
