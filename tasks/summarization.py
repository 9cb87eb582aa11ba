"""Summarization: a document becomes a few sentences."""

from collections.abc import Sequence
from dataclasses import field
from typing import ClassVar, Literal

from ptm_lightning.data.target_text import TargetTextData
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.metrics.references import Reference
from ptm_lightning.metrics.rouge import lead, rouge_scores
from ptm_lightning.text_generation import TextGeneration


class SummarizationData(TargetTextData):
    """Documents with their summaries."""

    train: list[str] = field(default_factory=lambda: ["builtin:summaries"])
    """What to train on: files with the columns document and summary (.jsonl .csv .tsv .parquet), globs, the hub."""
    max_length: int = 512
    """Tokens of the longest document, special tokens included; longer ones lose their end."""

    fields: ClassVar[tuple[str, ...]] = ("document", "summary")

    @property
    def purpose(self) -> str:
        """T5's own name."""
        return "summarization"


class Summarization(TextGeneration):
    """Summaries by an encoder-decoder, scored with ROUGE beside the documents' first three sentences.

    References:
        - BART, 2019, https://arxiv.org/abs/1910.13461
        - ROUGE, 2004, https://aclanthology.org/W04-1013
    """

    data_class: ClassVar[type[TaskData]] = SummarizationData
    sentence_measure: ClassVar[str] = "rougeL"
    headline: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "rougeL_lead3")

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
