"""Estimates of a run's work, time and memory before it starts: right within a factor of two, no better."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import nn
from transformers import PreTrainedModel

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.loader import StepLoader
from ptm_lightning.models.kernels import matmul_speed
from ptm_lightning.models.rows import parameters_of_rows

EFFICIENCY = 0.4
"""What a training step reaches of the speed of a large matrix product."""
BYTES_PER_PARAMETER = 16
"""fp32 weights and gradients, and AdamW's two averages."""
BYTES_PER_ACTIVATION = 34
"""Kept for the backward pass for each place, layer and hidden unit in 16 bits, without the attention matrix
(arXiv:2205.05198, table 2); twice as many in 32 bits."""
BYTES_PER_LOGIT = 12
"""A logit, its log-softmax and its gradient, in fp32."""
SAMPLED = 4
"""Micro-batches that are looked at."""


@dataclass(frozen=True)
class Shape:
    """A typical micro-batch."""

    places: float
    """Places, padding included."""
    width: float
    """Length of its rows."""
    targets: float
    """Places that the loss reads."""

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> "Shape":
        """The means of some batches."""
        sizes = [(b["input_ids"].numel(), b["input_ids"].shape[1], len(b.get("targets", ()))) for b in batches]
        return cls(*(sum(column) / len(sizes) for column in zip(*sizes, strict=True)))


@dataclass(frozen=True)
class Weights:
    """What a network consists of, as far as its work goes."""

    total: int
    """Parameters, tied ones once."""
    embeddings: int
    """Those in embedding tables."""
    head: int
    """Those of the projection on the vocabulary, tied or not."""
    body: int
    """All others, as often as they are used: ALBERT's layers share theirs."""
    layers: int
    hidden: int
    vocabulary: int
    last: int = 0
    """Those of the body that only targets need: the last layer's, behind its attention."""

    @classmethod
    def of(cls, network: PreTrainedModel) -> "Weights":
        """Counts a network's."""
        total = sum(p.numel() for p in network.parameters())
        tables = {id(m.weight): m.weight for m in network.modules() if isinstance(m, nn.Embedding)}
        output = network.get_output_embeddings()  # type: ignore[no-untyped-call]
        head = output.weight if isinstance(output, nn.Linear) else None
        config = network.config.get_text_config()
        layers = int(config.num_hidden_layers)
        embeddings = sum(table.numel() for table in tables.values())
        body = total - embeddings - (head.numel() if head is not None and id(head) not in tables else 0)
        return cls(
            total=total,
            embeddings=embeddings,
            head=head.numel() if head is not None else 0,
            body=body * layers // int(getattr(config, "num_hidden_groups", layers)),
            layers=layers,
            hidden=int(config.hidden_size),
            vocabulary=int(config.vocab_size),
            last=parameters_of_rows(network),
        )


def sample(loader: StepLoader) -> list[Batch]:
    """The first micro-batches of the first epoch, made here and not by the loader's workers."""
    return [loader.batches[key] for key in islice(loader.batches.plan.from_window(0, 0), SAMPLED)]


def training_flops(weights: Weights, shape: Shape) -> float:
    """Floating point operations of one micro-batch, forward and backward.

    6 for each parameter of the body and place; 12 for each layer, hidden unit, place and place of its row (attention);
    6 for each parameter of the head and target, and of what the last layer computes at targets only.
    """
    body = 6 * (weights.body * shape.places - weights.last * (shape.places - shape.targets))
    attention = 12 * weights.layers * weights.hidden * shape.width * shape.places
    return body + attention + 6 * weights.head * shape.targets


def training_bytes(weights: Weights, shape: Shape, *, half: bool, averaged: bool) -> float:
    """Memory that training needs on one device, beyond torch itself.

    Args:
        weights: The network's.
        shape: The micro-batch's.
        half: Whether activations are kept in 16 bits.
        averaged: Whether an average of the weights is kept.

    Returns:
        Bytes: of parameters, of activations, of logits at targets.
    """
    parameters = weights.total * (BYTES_PER_PARAMETER + 4 * averaged)
    activations = shape.places * weights.layers * weights.hidden * BYTES_PER_ACTIVATION * (1 if half else 2)
    return parameters + activations + shape.targets * weights.vocabulary * BYTES_PER_LOGIT


def precision_type(trainer: Trainer) -> torch.dtype:
    """In which type matrix products are computed."""
    precision = str(trainer.precision)
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


def device_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product on this device."""
    if device.type == "cpu":
        return matmul_speed(torch.bfloat16 if dtype == torch.float16 else dtype)  # as Lightning does on CPUs
    size, rounds = 4096, 10
    factor = torch.zeros(size, size, dtype=dtype, device=device)
    begin = 0.0
    for turn in range(rounds + 2):
        if turn == 2:
            torch.accelerator.synchronize(device)
            begin = time.perf_counter()
        factor @ factor
    torch.accelerator.synchronize(device)
    return rounds * 2 * size**3 / (time.perf_counter() - begin)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where that can't be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:  # what a container may use
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        return min(available, max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):
        return available
