"""Presets and configuration files, layered: later layers win, and every value knows the file and line it came from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ptm_lightning.errors import UserError, suggest

ADDED_UP = ("trainer.callbacks", "trainer.logger")
"""Lists that layers add to instead of replacing them."""
CLASS = "class_path"


@dataclass(frozen=True)
class Layer:
    """One preset or file."""

    name: str
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each dotted key."""
    summary: str = ""
    """The first line of its opening comment."""

    def place(self, key: str) -> str:
        """Where a dotted key stands, for messages."""
        return f"{self.name}:{self.lines[key]}" if key in self.lines else self.name


BELOW = frozenset({"base", "evaluate", "predict"})
"""Files that are no presets, but the layers below them."""


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("ptm_lightning.configs")
    names = {file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")}
    return sorted(names - BELOW)


def read_layer(name_or_path: str) -> Layer:
    """A shipped preset by its name, or a YAML file by its path.

    Raises:
        UserError: If there is none, or it isn't a YAML mapping.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"--config {name_or_path}: no such file")
        try:
            return parse_layer(name_or_path, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config {name_or_path}: can't be read as text ({error})") from error
    if name_or_path not in BELOW.union(preset_names()):
        raise UserError(f"--config {name_or_path}: no such preset; {suggest(name_or_path, preset_names())}")
    text = resources.files("ptm_lightning.configs").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return parse_layer(name_or_path, text)


def parse_layer(name: str, text: str) -> Layer:
    """A layer from YAML text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    if values is None:
        return Layer(name, {})
    if not isinstance(values, dict):
        raise UserError(f"{name}:1: expected keys such as `model:` and `data:`")
    lines: dict[str, int] = {}
    _note_lines(node, "", lines)
    return Layer(name, _flat_class(values), lines, text.partition("\n")[0].lstrip("# "))


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[prefix + key.value] = key.start_mark.line + 1
            _note_lines(value, f"{prefix}{key.value}.", lines)


def _flat_class(values: dict[str, Any]) -> dict[str, Any]:
    """`model: MaskedLM` is short for `model: {class_path: MaskedLM}`; Lightning's init_args are the keys themselves."""
    for key in ("model", "data"):
        if isinstance(section := values.get(key), str):
            values[key] = {CLASS: section}
        elif isinstance(section, dict) and isinstance(arguments := section.pop("init_args", None), dict):
            section.update(arguments)
    return values


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Layers on top of each other: mappings are merged, callbacks and loggers add up, anything else is replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge_into(merged, layer, "")
    return merged


def _merge_into(below: dict[str, Any], above: Mapping[str, Any], prefix: str) -> None:
    for key, value in above.items():
        path = f"{prefix}{key}"
        if path in ADDED_UP:
            below[key] = add_up(as_list(below.get(key)), as_list(value)) if value else value
        elif isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _merge_into(below[key], value, f"{path}.")
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value


def take_deep(joined: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes out the flags that reach into a mapping of mappings, such as --data.parts.general.train.

    They are merged with the presets here: jsonargparse would put them in the place of the whole inner mapping.

    Returns:
        The other flags, and the values of these, nested.
    """
    deep: dict[str, Any] = {}
    others = []
    for argument in joined:
        flag, _, value = argument.partition("=")
        *path, last = flag.removeprefix("--").split(".")
        if len(path) < 3 or path[0] == "trainer":
            others.append(argument)
            continue
        inner = deep
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = yaml.safe_load(value)
    return others, deep


def as_list(value: Any) -> list[Any]:
    """A list of one for a single value; empty for none, true or false."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]


def add_up(below: list[Any], above: list[Any]) -> list[Any]:
    """Both lists of callbacks or loggers; one of the same class is replaced."""
    replaced = {class_name(entry) for entry in above}
    return [entry for entry in below if class_name(entry) not in replaced] + above


def class_name(entry: Any) -> str:
    """The class's short name in `Name` or `{class_path: package.Name}`."""
    path = entry[CLASS] if isinstance(entry, Mapping) else str(entry)
    return path.rsplit(".", 1)[-1]


def fill_in(value: Any, variables: Mapping[str, Any]) -> Any:
    """Puts the variables' values wherever a value says ${name}; one that is nothing else takes the variable's type."""
    if isinstance(value, str):
        for name, meant in variables.items():
            if value == f"${{{name}}}":
                return meant
            value = value.replace(f"${{{name}}}", str(meant))
        return value
    if isinstance(value, Mapping):
        return {key: fill_in(item, variables) for key, item in value.items()}
    return [fill_in(item, variables) for item in value] if isinstance(value, list) else value


def put_back(value: Any, template: Any) -> Any:
    """Undoes `fill_in` where the template has a variable, so that a run folder can be moved and limits changed."""
    if isinstance(template, str) and "${" in template:
        return template
    if isinstance(value, Mapping) and isinstance(template, Mapping):
        return {key: put_back(item, template.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(template, list):
        return [put_back(*pair) for pair in zip(value, template, strict=False)] + value[len(template) :]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
