"""Texts with labels as examples: what is stored of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ptm_lightning.data.cached_tokenizer import CachedTokenizer
from ptm_lightning.data.example_data import encode_fields
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row
from ptm_lightning.data.labels import Labels, label_of


class LabelledTexts:
    """Rows with text and a label."""

    def __init__(self, fields: tuple[str, ...], labels: Labels) -> None:
        self.fields = self.together = fields
        self.labels = labels
        self.key = ["labels", labels.problem_type, labels.preferred]
        self.known: Sequence[str] = labels.known

    def take(self, row: Row, where: str) -> None:
        """Takes in the label of a training row."""
        self.labels.take(label_of(row, where), where)

    def check(self, row: Row, where: str) -> None:
        """Refuses a label that training doesn't have."""
        self.labels.check(label_of(row, where), where)

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Knows the labels again."""
        self.labels.recall(facts["labels"], facts["problem_type"])

    def stratum(self, row: Row) -> int:
        """Each label is held out in its share."""
        return self.labels.stratum(row["label"])

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """Token ids of the fields, and what the network is taught.

        Raises:
            UserError: All training rows have the same label.
        """
        self.labels.check_all()
        each = CachedTokenizer(tokenizer).encode_each

        def encode(rows: Sequence[Row]) -> Iterable[Encoded]:
            fields = encode_fields(each, rows, self.fields)
            targets = self.labels.targets(row["label"] for row in rows)
            return (Encoded(ids, {"label": target}) for ids, target in zip(fields, targets, strict=True))

        return encode

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """The names of the labels, how often each occurs in the training split, and what they are."""
        names, column = self.labels.names, train.columns["label"]
        counts: list[int] = []
        if names:
            ids = column.nonzero()[1] if column.ndim > 1 else column
            counts = np.bincount(ids, minlength=len(names)).tolist()
        labels = dict(zip(names, counts, strict=True))
        return {"labels": labels, "problem_type": self.labels.problem_type}
