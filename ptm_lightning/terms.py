"""Named loss terms: sums and counts, never means, so that any split of a step into batches gives the same gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


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
    count: Tensor | int


Terms = Mapping[str, Term | Ratio]


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
    """Sums of terms and ratios over many batches, kept on the device: adding doesn't synchronise."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        """(2,) double: sum and count, by name."""
        self.weights: dict[str, float] = {}
        """Weights of those that are loss terms."""

    def add(self, terms: Terms) -> None:
        """Adds a batch's terms."""
        for name, term in terms.items():
            if name not in self.sums:
                double = torch.float32 if term.sum.device.type == "mps" else torch.float64
                self.sums[name] = torch.zeros(2, dtype=double, device=term.sum.device)
            self.sums[name][0] += term.sum.detach()
            self.sums[name][1] += term.count
            if isinstance(term, Term):
                self.weights[name] = term.weight

    def means(self, prefix: str) -> dict[str, float]:
        """`{prefix}/loss`, each term's own loss if there are several, and the ratios; what has no count is left out."""
        values = {name: total / count for name, (total, count) in self._floats().items() if count}
        losses = {name: values[name] for name in self.weights if name in values}
        metrics = {f"{prefix}/{name}": value for name, value in values.items() if name not in losses}
        if losses:
            metrics[f"{prefix}/loss"] = sum(self.weights[name] * value for name, value in losses.items())
        if len(self.weights) > 1:
            metrics |= {f"{prefix}/{name}_loss": value for name, value in losses.items()}
        return metrics

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

    def _floats(self) -> dict[str, list[float]]:
        if not self.sums:
            return {}
        return dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))


def token_terms(name: str, logits: Tensor, batch: Mapping[str, Any], *, training: bool) -> dict[str, Term | Ratio]:
    """Cross-entropy over a batch's targets, in nats; in evaluation also accuracy and the loss on new sentences.

    Args:
        name: Of the term.
        logits: (N, vocabulary) at the N targets.
        batch: Has "targets", "counts" and, in evaluation of text, "fresh".
        training: Whether the metrics are left out.
    """
    targets, count = batch["targets"], batch["counts"][name]
    if training:
        return {name: Term(functional.cross_entropy(logits, targets, reduction="sum"), count)}
    losses = functional.cross_entropy(logits, targets, reduction="none")
    terms: dict[str, Term | Ratio] = {
        name: Term(losses.sum(), count),
        "accuracy": Ratio((logits.argmax(dim=-1) == targets).sum(), count),
    }
    if "fresh" in batch:
        terms["loss_new_sentences"] = Ratio((losses * batch["fresh"]).sum(), batch["fresh"].sum())
    return terms
