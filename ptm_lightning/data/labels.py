"""Labels as users write them, names, numbers or lists of names, and as a network is taught them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptm_lightning.data.formats import Row
from ptm_lightning.data.text_batches import number
from ptm_lightning.errors import UserError, suggest

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What a label is, in transformers' words: one name, a list of names, or a number."""
Target = int | float | NDArray[np.float32]
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class Labels:
    """Takes in the labels of a training split, finds out what they are, and turns them into numbers.

    A float is a number to be predicted; a list holds any number of names, also as JSON text in a table; all else is a
    name, integers and truth values too. Names are in the order of `known` or `preferred`, or sorted, integers by size.
    """

    def __init__(
        self, problem_type: ProblemType | None = None, known: Sequence[str] = (), preferred: Sequence[str] = ()
    ) -> None:
        """Nothing seen yet.

        Args:
            problem_type: What the labels are; None: what the first one looks like.
            known: The names that a model has been trained for; no others are allowed then.
            preferred: The names that a pretrained head has; their order is kept if the labels have the same names.
        """
        self.problem_type = problem_type
        self.told = problem_type is not None
        self.known = list(known)
        self.preferred = list(preferred)
        self.counts: dict[str, int] = {}
        """How often each name was seen."""
        self._first: dict[type, Any] = {}
        """The first label of each type."""

    def take(self, value: Any, where: str) -> None:
        """Takes in a label of the training split.

        Args:
            value: From the row.
            where: Its file and line, for messages.

        Raises:
            UserError: It isn't of the kind of those before it, or the model doesn't know it.
        """
        self.problem_type = self.problem_type or _problem_type(value, where)
        for name in self.names_of(value, where):
            self.counts[name] = self.counts.get(name, 0) + 1
        if self.problem_type != "regression":
            self._check_types(value, where)
        if self.known:
            self.check(value, where)

    def recall(self, counts: Mapping[str, int], problem_type: ProblemType | None) -> None:
        """Knows again how often each name was seen, and what the labels are."""
        self.counts, self.problem_type = dict(counts), problem_type

    def check(self, value: Any, where: str) -> None:
        """Refuses a label that training doesn't have."""
        for name in self.names_of(value, where):
            if name not in (self.known or self.counts):
                fix = "correct it, or add such examples to --data.train"
                if self.known:
                    fix = "the model was trained for others; correct it, or start from a backbone without a head"
                raise UserError(
                    f"{where}: the label '{name}' doesn't occur in training; {suggest(name, self.names)}; {fix}"
                )

    def check_all(self) -> None:
        """Refuses training rows, all of which were taken in, that leave nothing to tell apart, or look like numbers."""
        fractions = [name for name in self.counts if not name.removeprefix("-").isdecimal()]
        if not self.told and fractions and all(map(NUMBER.fullmatch, self.counts)):
            raise UserError(
                f"--data.train: the labels are text that looks like numbers, such as '{fractions[0]}'; predict numbers "
                "with --data.problem_type regression, or names with --data.problem_type single_label_classification"
            )
        several = self.problem_type == "multi_label_classification"
        if self.known or self.problem_type == "regression" or len(self.counts) >= (1 if several else 2):
            return
        rows = "no row has a label" if several else f"all {sum(self.counts.values()):,} rows have the one label"
        only = "".join(f" '{name}'" for name in self.counts)
        least = "give rows with one or more" if several else "a classifier needs two or more to tell apart; add rows"
        raise UserError(f"--data.train: {rows}{only}; {least}, or name the right column with --data.columns.label")

    def _check_types(self, value: Any, where: str) -> None:
        """Refuses 1 beside "1" and True, which may be meant as one label or as several."""
        value = _listed(value)
        for item in value if isinstance(value, list) else [value]:
            self._first.setdefault(type(item), item)
            if len(self._first) > 1:
                other = next(iter(self._first.values()))
                raise UserError(
                    f"{where}: the label {item!r:.40} is of another type than {other!r:.40} before; write all labels "
                    "as text, or all as integers"
                )

    @property
    def names(self) -> list[str]:
        """The names in the order of their ids; none for numbers."""
        if self.known or self.problem_type == "regression":
            return self.known
        if set(self.preferred) == set(self.counts):
            return self.preferred
        integers = all(name.removeprefix("-").isdecimal() for name in self.counts)
        return sorted(self.counts, key=int) if integers else sorted(self.counts)

    def names_of(self, value: Any, where: str) -> list[str]:
        """The names in a label; none in a number.

        Raises:
            UserError: It isn't of the kind of the others.
        """
        if self.problem_type == "multi_label_classification":
            value = _listed(value)
            if not isinstance(value, list):
                raise UserError(f'{where}: the label {value!r:.40} is no list, others are; write ["name", ...]')
            return [_name(item, where) for item in value]
        if self.problem_type == "regression":
            _number(value, where)
            return []
        if isinstance(value if self.told else _listed(value), float | list):
            raise UserError(
                f"{where}: the label {value!r:.40} is no name, others are; write all labels in the same way "
                "(floats are numbers to predict, lists hold several names)"
            )
        return [_name(value, where)]

    def stratum(self, value: Any) -> int:
        """A number that is equal for equal labels, the first of several, so that each is held out in its share."""
        names = [] if self.problem_type == "regression" else self.names_of(value, "")
        return number(min(names).encode("utf-8", "replace")) if names else 0

    def targets(self, values: Iterable[Any]) -> Iterator[Target]:
        """What the network is taught: an id, a 0 or 1 for each name, or a number."""
        ids = {name: number for number, name in enumerate(self.names)}
        for value in values:
            if self.problem_type == "regression":
                yield float(value)
                continue
            mine = [ids[name] for name in self.names_of(value, "")]
            if self.problem_type == "multi_label_classification":
                row = np.zeros(len(ids), dtype=np.float32)
                row[mine] = 1
                yield row
            else:
                yield mine[0]


def _listed(value: Any) -> Any:
    """The list that a table's cell holds as JSON text; anything else as it is."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def label_of(row: Row, where: str) -> Any:
    """The row's label.

    Raises:
        UserError: It has none.
    """
    if row.get("label") is None or row["label"] == "":
        raise UserError(f"{where}: no label; the columns are {', '.join(row)}; name yours with --data.columns.label")
    return row["label"]


def _problem_type(value: Any, where: str) -> ProblemType:
    if isinstance(_listed(value), list):
        return "multi_label_classification"
    if isinstance(value, float):
        return "regression"
    _name(value, where)
    return "single_label_classification"


def _name(value: Any, where: str) -> str:
    if isinstance(value, str | bool | int):
        return str(value)
    raise UserError(f"{where}: the label {value!r:.40} is neither a name nor a number; mend or remove the row")


def _number(value: Any, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(value, bool) or not np.isfinite(found):
        raise UserError(f"{where}: the label {value!r:.40} is no number, and numbers are to be predicted; mend the row")
    return found
