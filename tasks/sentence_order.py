"""ALBERT's objective: masked n-grams, and whether two segments of a document stand in their order."""

from typing import Any, ClassVar

from torch import Tensor

from ptm_lightning.data.noise import Unit
from ptm_lightning.data.pair_module import PairText
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.pair_task import PairTask


class SentenceOrderData(PairText):
    """Two segments of whole sentences that follow one another in a document, swapped half the time.

    References:
        - ALBERT, 2019, https://arxiv.org/abs/1909.11942
    """

    masking: Unit = "ngram"
    """What is masked as a whole: single tokens, whole words, spans of 1 to 10 words, or n-grams of 1 to 3 words."""

    pair_term: ClassVar[str] = "sop"
    swapped: ClassVar[bool] = True
    label_names: ClassVar[tuple[str, str]] = ("0: in order", "1: swapped")


class SentenceOrder(PairTask):
    """ALBERT's masked language modelling with sentence order prediction.

    References:
        - ALBERT, 2019, https://arxiv.org/abs/1909.11942
    """

    data_class: ClassVar[type[TaskData]] = SentenceOrderData
    pair_term: ClassVar[str] = "sop"
    architectures: ClassVar[tuple[str, ...]] = ("albert",)

    architecture: str = "albert"
    """What to build from scratch when there is no backbone: a transformers model type."""

    def pair_logits(self, output: Any) -> Tensor:
        """(R, 2): 0 for the order of the document, 1 for swapped segments."""
        logits: Tensor = output.sop_logits
        return logits
