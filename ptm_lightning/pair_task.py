"""PairTask: masked language modelling, and a second loss on how two segments belong together."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from ptm_lightning.data.batch import Batch
from ptm_lightning.errors import UserError
from ptm_lightning.fill import example_with_mask, fill_masks, masked_examples
from ptm_lightning.models.rows import only_rows
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term, Terms, perplexity, token_terms


class PairTask(Task, ABC):
    """Two terms on one forward pass: "mlm" over the targets, and the pair's over the rows."""

    auto_class: ClassVar[str] = "AutoModelForPreTraining"
    pair_term: ClassVar[str]
    """The name of the pair's loss term; its data module counts it."""
    architectures: ClassVar[tuple[str, ...]]
    """Those that have a head for the pair."""

    @abstractmethod
    def pair_logits(self, output: Any) -> Tensor:
        """(R, 2): the part of the network's output that says how the segments of R rows belong together."""

    def check_kind(self, kind: type[PreTrainedConfig], flag: str) -> None:
        """Refuses a network without a head for the pair."""
        if (found := kind.model_type) not in self.architectures:
            raise UserError(
                f"{flag}: {type(self).__name__} needs a head that transformers has for "
                f"{', '.join(self.architectures)} and not for {found}; take one of them, or --model MaskedLM"
            )

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy at the targets and of the pair, in nats; in evaluation also their accuracies."""
        output = self._output(batch)
        pair, labels, count = self.pair_logits(output).float(), batch["labels"], batch["counts"][self.pair_term]
        terms = token_terms("mlm", _at_targets(output), batch, training=self.training, prefix="mlm_")
        terms[self.pair_term] = Term(functional.cross_entropy(pair, labels, reduction="sum"), count)
        if not self.training:
            terms[f"{self.pair_term}_accuracy"] = Ratio((pair.argmax(dim=-1) == labels).sum(), count)
        return terms

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of masked tokens."""
        return metrics | {f"{prefix}/mlm_perplexity": perplexity(metrics[f"{prefix}/mlm_loss"])}

    def logits_at_targets(self, batch: Batch) -> Tensor:
        """(N, vocabulary): the logits of the rows that the loss reads, and of no other."""
        return _at_targets(self._output(batch))

    def example_text(self) -> str | None:
        """A text with a mask to fill."""
        return example_with_mask(self.tokenizer())

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text, with the targets and the labels and the best guesses for them."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        output = self._output(batch)
        rows = masked_examples(_at_targets(output).float().detach(), batch, tokenizer)
        pairs = zip(batch["labels"].tolist(), self.pair_logits(output).argmax(dim=-1).tolist(), strict=True)
        return [
            row | {self.pair_term: f"{label}, guessed {guess}"} for row, (label, guess) in zip(rows, pairs, strict=True)
        ]

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The best guesses for each mask token, and the text with the first ones filled in."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        return fill_masks(self.logits_at_targets(batch).float(), batch, tokenizer)

    def _output(self, batch: Batch) -> Any:
        assert self.network is not None
        with only_rows(self.network, batch["target_index"]):
            return self.network(**self.inputs(batch))


def _at_targets(output: Any) -> Tensor:
    logits: Tensor = output.prediction_logits
    return logits.flatten(0, 1)
