"""What a measuring process is to do, and the one clock for ours and the peers."""

import resource
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from ptm_lightning.callbacks.estimate import Shape, Weights, training_flops
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ptm_lightning.data.layout import Layout

WARM_UP = 3
"""Steps that aren't measured."""


@dataclass(frozen=True)
class Job:
    """What a process is to do."""

    what: str
    """A name in `WORK`."""
    text: list[str]
    """The training sources."""
    folder: str
    """The network and the tokenizer that all start from; what is prepared lies there too."""
    layout: Layout = "rows"
    precision: str = "fp32"
    steps: int = 10
    """Optimizer steps that are measured."""
    max_length: int = 128
    vocab_size: int = 30_522
    size: str = "mini"
    batch_tokens: int = 4096
    """Of ours, as many as there are in a peer's batch of blocks."""
    text_bytes: int = 20_000_000
    """Text that is tokenized for a rate, and the smaller corpus of the memory measurement."""
    preset: str = ""
    """Whose objective, of `objectives.py`."""
    corpus: float = 1.0
    """Share of the documents that are trained on, where it is varied."""
    num_workers: int = 0
    devices: int = 1
    """Processes."""
    cache: str | None = None
    """Where ours keeps its tokens; None as everywhere."""


class Size(NamedTuple):
    """What a batch holds."""

    places: int
    """Padding included."""
    width: int
    tokens: int
    """Without padding."""
    projected: int
    """Places that are projected on the vocabulary."""


@dataclass
class Clock:
    """Begin and end of each step, and what its batch held."""

    begun: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    """Page faults up to the end of each step, of those that need no reading."""
    optimized: list[float] = field(default_factory=list)
    """Seconds that each step of an optimizer took, clipping included where it comes with it."""

    def __post_init__(self) -> None:
        register_optimizer_step_pre_hook(lambda *_: self.begin_optimizer())
        register_optimizer_step_post_hook(lambda *_: self.optimized.append(time.perf_counter() - self._began))

    def begin_optimizer(self) -> None:
        """The gradients are there. Said again by those whose step begins with the network's."""
        self._began = time.perf_counter()

    def begin(self) -> None:
        """The batch is there."""
        self.begun.append(time.perf_counter())

    def end(self) -> None:
        """The optimizer's step is done."""
        self.ended.append(time.perf_counter())
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    def result(self, network: nn.Module) -> dict[str, float]:
        """The means over the steps after the warm-up; a step lasts from the end of the one before to its own."""
        seconds = self.ended[-1] - self.ended[WARM_UP - 1]
        waited = sum(b - e for b, e in zip(self.begun[WARM_UP:], self.ended[WARM_UP - 1 :], strict=False))
        sizes = self.sizes[WARM_UP : len(self.ended)]
        places, _, tokens, projected = (sum(column) for column in zip(*sizes, strict=True))
        weights: Any = Weights.of(network)
        flops = sum(training_flops(weights, Shape(s.places, s.width, s.projected)) for s in sizes)
        return {
            "tokens_per_second": tokens / seconds,
            "steps_per_second": len(sizes) / seconds,
            "padding": 1 - tokens / places,
            "projected": projected / places,
            "waiting": waited / seconds,
            "optimizer": sum(self.optimized[WARM_UP : len(self.ended)]) / seconds,
            "flops_per_second": flops / seconds,
            "faults": (self.faults[-1] - self.faults[WARM_UP - 1]) / len(sizes),
            "peak_memory": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }


class ClockCallback(Callback):
    """Lightning's steps by the clock; for ours, the batches' sizes too.

    Args:
        clock: The clock.
        ours: Whether batches are ours.
    """

    def __init__(self, clock: Clock, ours: bool) -> None:
        self.clock, self.ours = clock, ours

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begins a step."""
        if self.ours:
            ids = batch["input_ids"]
            self.clock.sizes.append(
                Size(ids.numel(), ids.shape[1], batch["counts"]["tokens"], len(batch.get("targets", ())))
            )
        self.clock.begin()

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Parts the optimizer's time from the network's, which the trainer runs within the optimizer's step."""
        self.clock.begin_optimizer()

    def on_train_batch_end(self, *args: Any) -> None:
        """Ends it."""
        self.clock.end()
