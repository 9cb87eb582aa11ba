"""Named loss terms: sums and counts, never means, so that any split of a step into batches gives the same gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.nn import functional

from ptm_lightning.cross_entropy import summed_cross_entropy

AUROC_LIMIT = 16
"""The largest logit that is told from larger ones."""
AUROC_FINENESS = 64
"""Bins for a logit of 1."""


@dataclass(frozen=True)
class Term:
    """A part of the loss."""

    sum: Tensor
    """(), summed over the batch's targets."""
    count: Tensor | int
    """The number of targets."""
    weight: float = 1.0


@dataclass(frozen=True)
class Ratio:
    """A metric that isn't part of the loss, such as an accuracy: sum / count over all batches."""

    sum: Tensor
    """()"""
    count: Tensor | float


@dataclass(frozen=True)
class Auroc:
    """A metric: the area under the ROC curve, the chance that a positive has a higher logit than a negative.

    It is taken over all batches: logits are counted in bins 1/64 wide from -16 to 16, and a tie counts as half.
    """

    logits: Tensor
    """(n,)"""
    positive: Tensor
    """(n,) bool"""

    def counts(self) -> Tensor:
        """(2, bins): negatives and positives by their logit."""
        last = 2 * AUROC_LIMIT * AUROC_FINENESS - 1
        place = (self.logits.detach().float().nan_to_num() + AUROC_LIMIT) * AUROC_FINENESS
        index = place.long().clamp(0, last) + self.positive.long() * (last + 1)
        return torch.bincount(index, minlength=2 * (last + 1)).view(2, last + 1)


Terms = Mapping[str, Term | Ratio | Auroc]


def step_loss(terms: Terms, step_counts: Mapping[str, int]) -> Tensor:
    """A batch's share of the optimizer step's loss: the shares of all its batches sum to the loss of their union.

    Args:
        terms: The batch's terms by name.
        step_counts: The count of each term over all batches of the step, from `Batch`.

    Returns:
        (), sum of weight * sum / count over the terms.
    """
    shares = [
        term.weight * term.sum / max(1, step_counts[name]) for name, term in terms.items() if isinstance(term, Term)
    ]
    return torch.stack(shares).sum()


class RunningSums:
    """Sums of terms and metrics over many batches, kept on the device: adding doesn't synchronise."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        """Double, by name: (2,) sum and count, or (2, bins) an `Auroc`'s counts."""
        self.weights: dict[str, float] = {}
        """Weights of those that are loss terms."""

    def add(self, terms: Terms) -> None:
        """Adds a batch's terms."""
        for name, term in terms.items():
            like = term.logits if isinstance(term, Auroc) else term.sum
            double = torch.float32 if like.device.type == "mps" else torch.float64
            if isinstance(term, Auroc):
                counts = term.counts().to(double)
                self.sums[name] = self.sums[name] + counts if name in self.sums else counts
                continue
            if name not in self.sums:
                self.sums[name] = torch.zeros(2, dtype=double, device=like.device)
            total, count = self.sums[name]
            total.add_(term.sum.detach())
            count.add_(term.count)
            if isinstance(term, Term):
                self.weights[name] = term.weight

    def means(self, prefix: str) -> dict[str, float]:
        """`{prefix}/loss`, each term's own loss if there are several, and metrics; what has no count is left out."""
        means = {name: _mean(*sums) for name, sums in self._floats().items()}
        values = {name: value for name, value in means.items() if value is not None}
        losses = {name: values[name] for name in self.weights if name in values}
        metrics = {f"{prefix}/{name}": value for name, value in values.items() if name not in losses}
        if losses:
            metrics[f"{prefix}/loss"] = sum(self.weights[name] * value for name, value in losses.items())
        if len(self.weights) > 1:
            metrics |= {f"{prefix}/{name}_loss": value for name, value in losses.items()}
        return metrics

    def over_processes(self, strategy: Strategy, processes: int) -> "RunningSums":
        """The sums over all processes, the same on each; one that had no batch takes part with zeros.

        The first process has a batch wherever any has one: its names are all there are.
        """
        if processes == 1:
            return self
        mine = {name: tuple(total.shape) for name, total in self.sums.items()}
        found = RunningSums()
        shapes, found.weights = strategy.broadcast((mine, self.weights))
        device = strategy.root_device
        double = torch.float32 if device.type == "mps" else torch.float64
        for name, shape in shapes.items():
            total = self.sums.get(name, torch.zeros(shape, dtype=double, device=device))
            found.sums[name] = strategy.reduce(total.clone(), reduce_op="sum")
        return found

    def by_part(self) -> dict[str, "RunningSums"]:
        """A mixture's sums by part: its name stands before the first slash of a term's."""
        found: dict[str, RunningSums] = {}
        for name, total in self.sums.items():
            part, _, own = name.partition("/")
            sums = found.setdefault(part, RunningSums())
            sums.sums[own] = total
            if name in self.weights:
                sums.weights[own] = self.weights[name]
        return found

    def clear(self) -> None:
        """Starts anew."""
        self.sums, self.weights = {}, {}

    def state(self) -> dict[str, Any]:
        """Plain numbers for the checkpoint."""
        return {"sums": self._floats(), "weights": dict(self.weights)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on from `state`."""
        self.sums = {
            name: torch.tensor(pair, dtype=torch.float64, device=device) for name, pair in state["sums"].items()
        }
        self.weights = dict(state["weights"])

    def _floats(self) -> dict[str, list[Any]]:
        if not self.sums:
            return {}
        flat = torch.cat([total.flatten() for total in self.sums.values()]).cpu()  # one synchronisation for all
        parts = torch.split(flat, [total.numel() for total in self.sums.values()])
        return {
            name: part.view_as(total).tolist() for (name, total), part in zip(self.sums.items(), parts, strict=True)
        }


def _mean(first: Any, second: Any) -> float | None:
    """Of a sum and its count, or the area under the ROC curve from negatives and positives by bin."""
    if isinstance(first, Sequence):
        negative, positive = torch.tensor([first, second], dtype=torch.float64)
        below = negative.cumsum(0) - negative / 2
        pairs = float(negative.sum() * positive.sum())
        return float((positive * below).sum()) / pairs if pairs else None
    return float(first / second) if second else None


def perplexity(loss: float) -> float:
    """The exponential of a mean loss in nats, finite for any."""
    return exp(min(loss, 700.0))


def bits_per_byte(losses: Tensor, size: float) -> Ratio:
    """The loss over the bytes of the text: unlike a loss by token, it compares across vocabularies.

    Where every token is a target it is how many bits the text costs. Masked tokens are a sample, which stands for all
    of them: each is guessed with most of the text in sight, on both sides. Then vocabularies only compare if whole
    words are masked, for a piece is easily guessed from the others of its word.

    Args:
        losses: (N,) of the targets, in nats.
        size: Bytes of the text that the targets stand for.
    """
    return Ratio(losses.detach().sum() / log(2), size)


def token_terms(
    name: str, logits: Tensor, batch: Mapping[str, Any], *, training: bool, prefix: str = ""
) -> dict[str, Term | Ratio]:
    """Cross-entropy over a batch's targets, in nats; in evaluation also accuracy, bits per byte, and new sentences.

    Args:
        name: Of the term.
        logits: (N, vocabulary) at the N targets.
        batch: Has "targets", "counts" and, in evaluation of text, "fresh" and "bytes".
        training: Whether the metrics are left out.
        prefix: Of the metrics' names, where the task has others.
    """
    targets, count = batch["targets"], batch["counts"][name]
    if training:
        return {name: Term(summed_cross_entropy(logits, targets), count)}
    logits = logits.float()
    losses = functional.cross_entropy(logits, targets, reduction="none")
    terms: dict[str, Term | Ratio] = {
        name: Term(losses.sum(), count),
        f"{prefix}accuracy": Ratio((logits.argmax(dim=-1) == targets).sum(), count),
    }
    if "fresh" in batch:
        terms[f"{prefix}loss_new_sentences"] = Ratio((losses * batch["fresh"]).sum(), batch["fresh"].sum())
    if "bytes" in batch:
        terms[f"{prefix}bits_per_byte"] = bits_per_byte(losses, batch["bytes"])
    return terms
