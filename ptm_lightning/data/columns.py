"""A row's columns under the names that the task has for them."""

from collections.abc import Mapping

from ptm_lightning.data.formats import Row

OTHER_NAMES = {"messages": "turns"}
"""What files also call a column."""


def with_more_columns(row: Row) -> Row:
    """A row with the entries of its nested columns beside its own, and with those that it has under another name."""
    nested = {name: inner for value in row.values() if isinstance(value, dict) for name, inner in value.items()}
    return {ours: row[theirs] for ours, theirs in OTHER_NAMES.items() if theirs in row} | nested | row


def renamed(row: Row, mapping: Mapping[str, str]) -> Row:
    """The row with the task's column names; the user's names for them are gone."""
    theirs = set(mapping.values())
    others = {name: value for name, value in row.items() if name not in theirs}
    return others | {ours: row[name] for ours, name in mapping.items()}
