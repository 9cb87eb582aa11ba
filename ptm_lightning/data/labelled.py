"""Texts with labels as examples: what is stored of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from ptm_lightning.data.example_data import encode_fields
from ptm_lightning.data.example_store import Encode, Encoded
from ptm_lightning.data.formats import Row
from ptm_lightning.data.labels import Labels, label_of, stratum


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

    def stratum(self, row: Row) -> int:
        """Each label is held out in its share."""
        return stratum(row["label"])

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """Token ids of the fields, and what the network is taught."""

        def encode(rows: Sequence[Row]) -> Iterable[Encoded]:
            fields = encode_fields(tokenizer, rows, self.fields)
            targets = self.labels.targets(row["label"] for row in rows)
            return (Encoded(ids, {"label": target}) for ids, target in zip(fields, targets, strict=True))

        return encode

    def facts(self) -> dict[str, Any]:
        """The names of the labels, how often each occurs, and what they are."""
        counts = {name: self.labels.counts.get(name, 0) for name in self.labels.names}
        return {"labels": counts, "problem_type": self.labels.problem_type}
