"""The names of labels that data sets of the hub keep as numbers: in their features, or in parquet files' metadata."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The names of the labels in each column that has some.

    Args:
        features: In the form of `datasets.Features.to_dict`: columns of a ClassLabel, or of lists of one.
    """
    found: dict[str, Sequence[str]] = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) and feature else feature
        while isinstance(inner, dict) and isinstance(inner.get("feature"), dict):
            inner = inner["feature"]
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = inner["names"]
    return found


def named_rows(data_set: Any) -> Iterable[Row]:
    """The rows of a data set of `datasets`, with names for numbers."""
    features = getattr(data_set, "features", None)
    names = class_names(features.to_dict()) if features else {}
    return (with_class_names(row, names) for row in data_set) if names else data_set


def parquet_class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, Sequence[str]]:
    """The same from a parquet file's metadata, if `datasets` wrote them."""
    try:
        return class_names(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def with_class_names(row: Row, names: Mapping[str, Sequence[str]]) -> Row:
    """A row with names for numbers; a number without a name, -1 where a label is kept secret, becomes None."""
    return row | {column: _named(row[column], known) for column, known in names.items() if column in row}


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if type(value) is not int:
        return value
    return names[value] if 0 <= value < len(names) else None
