"""Summarization: a document becomes a few sentences, by an encoder-decoder or a causal network."""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import ClassVar, Literal

from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.target_text import TargetTextData
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.metrics.references import Reference
from ptm_lightning.metrics.rouge import lead, rouge_scores
from ptm_lightning.models.start import CAUSAL, SEQ2SEQ
from ptm_lightning.text_generation import TextGeneration

TLDR = "\nTL;DR:"


class SummarizationData(TargetTextData):
    """Documents with their summaries.

    A causal network reads a document and a separator, and goes on with the summary.

    References:
        - "TL;DR:" after a document: GPT-2, 2019, section 3.6,
          https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf;
          with a line break: Stiennon et al., 2020, https://arxiv.org/abs/2009.01325
    """

    train: list[str] = field(default_factory=lambda: ["builtin:summaries"])
    """What to train on: files with the columns document and summary (.jsonl .csv .tsv .parquet), globs, the hub."""
    max_length: int = 512
    """Tokens of the longest document, special tokens included; longer ones lose their end. For a causal network tokens
    of the longest row: a document, the separator and room for the longest summary."""
    separator: str | None = None
    """What a causal network reads between a document and its summary. Default: the trained model's own, or a line break
    and TL;DR:"""
    tokenizer_algorithm: Algorithm | None = None  # type: ignore[assignment]
    """What kind of tokenizer to train, on both sides; wordpiece would lose capital letters. Default: bpe, and gpt2 for
    a causal network, which puts nothing behind a text that is to be gone on with."""

    fields: ClassVar[tuple[str, ...]] = ("document", "summary")

    @property
    def purpose(self) -> str:
        """T5's own name."""
        return "summarization"

    def settings(self) -> CorpusSettings:
        """All that the tokens depend on."""
        algorithm = self.tokenizer_algorithm or ("gpt2" if self.causal else "bpe")
        return replace(super().settings(), algorithm=algorithm)

    def used_separator(self) -> str:
        """The separator asked for, the trained model's or the backbone's own, or GPT-2's."""
        if not self.causal and self.separator is not None:
            raise UserError("--data.separator: an encoder-decoder reads a document by itself; leave it out")
        if self.separator == "":
            raise UserError("--data.separator: give a text, such as TL;DR:, that tells where a document ends")
        return (self.separator or str(self.known_side().get("separator", TLDR))) if self.causal else ""


class Summarization(TextGeneration):
    """Summaries by an encoder-decoder or a causal network, scored with ROUGE beside the first three sentences.

    References:
        - BART, 2019, https://arxiv.org/abs/1910.13461; GPT-2, 2019, as of `SummarizationData`
        - ROUGE, 2004, https://aclanthology.org/W04-1013
    """

    data_class: ClassVar[type[TaskData]] = SummarizationData
    heads: ClassVar[tuple[str, ...]] = (SEQ2SEQ, CAUSAL)
    sentence_measure: ClassVar[str] = "rougeL"
    headline: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "rougeL_lead3")

    architecture: str = "bart"
    """What to build from scratch when there is no backbone: a transformers model type, such as bart, t5 or gpt2."""

    def measure(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[Reference]
    ) -> dict[str, float]:
        """ROUGE of the answers, and of the first three sentences."""
        baseline = rouge_scores([lead(source) for source in sources], references)
        return rouge_scores(answers, references) | {f"{name}_lead3": value for name, value in baseline.items()}

    def sentence_score(self, answer: str, reference: Reference) -> float:
        """ROUGE-L."""
        return rouge_scores([answer], [reference])["rougeL"]

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """ROUGE-L."""
        return "val/rougeL", "max"

    def example_text(self) -> str | None:
        """A document to sum up."""
        return "The optional argument tells how many items are read. Without it, all of them are. Returns a list."
