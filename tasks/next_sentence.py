"""BERT's objective: masked language modelling, and whether a segment is what follows another in its document."""

from typing import Any, ClassVar

from torch import Tensor

from ptm_lightning.data.pair_module import PairText
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.pair_task import PairTask


class NextSentenceData(PairText):
    """Two segments of whole sentences; half the time the second is of another document of the corpus.

    As in BERT, but a document's last sentence, left alone, gives no row: its next one would always be random.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
    """

    pair_term: ClassVar[str] = "nsp"
    swapped: ClassVar[bool] = False
    label_names: ClassVar[tuple[str, str]] = ("0: the next text", "1: of another document")


class NextSentence(PairTask):
    """BERT's masked language modelling with next sentence prediction.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
    """

    data_class: ClassVar[type[TaskData]] = NextSentenceData
    pair_term: ClassVar[str] = "nsp"
    architectures: ClassVar[tuple[str, ...]] = ("bert", "big_bird", "ernie", "megatron-bert", "mobilebert")

    def pair_logits(self, output: Any) -> Tensor:
        """(R, 2): 0 for the next text, 1 for another."""
        logits: Tensor = output.seq_relationship_logits
        return logits
