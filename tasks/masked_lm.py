"""Masked language modelling: BERT's and RoBERTa's objective, with tokens, words, spans or n-grams masked."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.masked import MaskedText
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.fill import example_with_mask, fill_masks, masked_examples
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term, perplexity, token_terms


class MaskedLMData(MaskedText):
    """Text with masked tokens, whole words, spans or n-grams.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - SpanBERT, 2019, https://arxiv.org/abs/1907.10529
    """

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """BERT's noise."""
        return self.masking_collator(store, evaluate=evaluate)


class MaskedLM(Task):
    """BERT's masked language modelling, for any encoder that transformers knows for it.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - RoBERTa, 2019, https://arxiv.org/abs/1907.11692
    """

    data_class: ClassVar[type[TaskData]] = MaskedLMData
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    def terms(self, batch: Batch) -> Mapping[str, Term | Ratio]:
        """Cross-entropy at the targets, in nats; in evaluation also accuracy, bits per byte, and new sentences."""
        return token_terms("mlm", self.logits_at_targets(batch), batch, training=self.training)

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of masked tokens."""
        return metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def example_text(self) -> str | None:
        """A text with a mask to fill."""
        return example_with_mask(self.tokenizer())

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text, with the targets and the best guesses for them."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        return masked_examples(self.logits_at_targets(batch).float().detach(), batch, tokenizer)

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The best guesses for each mask token, and the text with the first ones filled in."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        return fill_masks(self.logits_at_targets(batch).float(), batch, tokenizer)
