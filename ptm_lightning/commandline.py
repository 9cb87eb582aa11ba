"""The second pass over the command line: LightningCLI with concrete classes, which the first pass has found."""

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError, readable, suggest
from ptm_lightning.flags import budget
from ptm_lightning.log import say
from ptm_lightning.origin import refuse_unused, said_by_user
from ptm_lightning.plugins import find_class
from ptm_lightning.presets import CLASS, Layer, fill_in, merge, put_back, take_deep
from ptm_lightning.task import Task

OWN_KEYS = ("seed", "max_tokens", "max_hours", "init_from")
"""Top-level keys of a configuration that aren't Lightning's."""
SECTIONS = ("model", "data", "trainer")
REPEATABLE = ("--trainer.callbacks", "--trainer.logger")
"""Flags that add one class after the other, each with its settings behind it."""


def join_values(arguments: Sequence[str], lists: set[str]) -> list[str]:
    """Joins the values after a flag to one: shells expand globs into several.

    Args:
        arguments: What our own flags left over.
        lists: Flags that take a list; for them a single value is a list, too.

    Returns:
        Arguments in the form `--flag=value`.
    """
    joined: list[str] = []
    given: set[str] = set()
    index = 0
    while index < len(arguments):
        flag, equals, value = arguments[index].partition("=")
        if not flag.startswith("--"):
            raise UserError(f"{arguments[index]!r} follows no flag")
        index += 1
        values = [value] if equals else []
        while index < len(arguments) and not arguments[index].startswith("--"):
            values.append(arguments[index])
            index += 1
        if not values:
            raise UserError(f"{flag}: give a value")
        is_list = len(values) > 1 or (flag in lists and not values[0].startswith("["))
        if is_list and flag in given and not flag.startswith(REPEATABLE):  # of single values, the last one wins
            raise UserError(f"{flag}: is given twice; name all values after one")
        given.add(flag)
        joined.append(f"{flag}={json.dumps(values) if is_list else values[0]}")
    return joined


def list_flags(*classes: type) -> set[str]:
    """Flags of arguments that are lists."""
    return {
        f"--{section}.{item.name}"
        for section, cls in zip(SECTIONS, classes, strict=False)
        for item in fields(cls)
        if "list[" in str(item.type)
    }


def choose_classes(layers: Sequence[Layer], model: str | None, data: str | None) -> tuple[type[Task], type[TaskData]]:
    """The task that the command line or the last layer names, and its data module.

    Raises:
        UserError: If none is named, or there is no such class.
    """
    named = [(layer, layer.values["model"][CLASS]) for layer in layers if CLASS in (layer.values.get("model") or {})]
    if model is not None:
        task = find_class(model, Task, "--model")
    elif named:
        layer, name = named[-1]
        task = find_class(name, Task, f"{layer.place('model')}: model")
    else:
        raise UserError(
            "--model: name a task, such as --model MaskedLM, or a preset that does (python -m ptm_lightning list)"
        )
    data_names = [layer.values["data"][CLASS] for layer in layers if CLASS in (layer.values.get("data") or {})]
    other = data or (data_names[-1] if data_names and model is None else None)
    return task, find_class(other, TaskData, "--data") if other else task.data_class


def check_keys(
    layers: Sequence[Layer], arguments: Sequence[str], task: type[Task], data: type[TaskData]
) -> list[Layer]:
    """Refuses keys that no class takes, with the nearest right name; drops another task's keys aloud.

    Returns:
        The layers, without the keys that belong to a task which a later layer or the command line replaced.
    """
    known = {"model": argument_names(task), "data": argument_names(data), "trainer": argument_names(Trainer)}
    for argument in arguments:
        section, _, key = argument.split("=")[0].removeprefix("--").partition(".")
        _check_key(argument.split("=")[0] + ":", section, key, known)
    kept = []
    for layer in layers:
        model = layer.values.get("model") or {}
        foreign = CLASS in model and model[CLASS].rsplit(".", 1)[-1] != task.__name__
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in layer.values.items()}
        for section in values:
            if section not in SECTIONS:
                _check_key(f"{layer.place(section)}: {section}:", section, "", known)
                continue
            for key in list(values[section] or {}):
                if key == CLASS:
                    del values[section][key]
                elif key not in known[section] and foreign and section != "trainer":
                    say(f"{layer.place(f'{section}.{key}')}: {section}.{key} is not {task.__name__}'s; left out")
                    del values[section][key]
                else:
                    _check_key(f"{layer.place(f'{section}.{key}')}: {section}.{key}:", section, key, known)
        kept.append(replace(layer, values=values))
    return kept


def _check_key(place: str, section: str, key: str, known: Mapping[str, set[str]]) -> None:
    if section not in known:
        if section not in OWN_KEYS or key:
            raise UserError(f"{place} no such key; {suggest(section, [*known, *OWN_KEYS])}")
    elif (name := key.split(".")[0].removesuffix("+")) and name not in known[section]:
        raise UserError(f"{place} {section} has no {name!r}; {suggest(name, known[section])}")


def argument_names(cls: type) -> set[str]:
    """The names of a class's arguments."""
    return set(inspect.signature(cls).parameters) - {"self"}


class CommandLine(LightningCLI):
    """LightningCLI with a concrete task and data module; it builds all three and runs nothing."""

    def __init__(self, task: type[Task], data: type[TaskData], config: dict[str, Any], arguments: list[str]) -> None:
        try:
            super().__init__(
                task,
                data,
                run=False,
                args=["--config", json.dumps(config), *arguments],
                save_config_callback=None,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={"exit_on_error": False},
            )
        except ArgumentError as error:
            raise UserError(readable(str(error))) from None

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds none: the seed is the classes' own argument."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The task first, then the data, then Lightning's trainer."""
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data")
        super_defaults = {f"trainer.{key}": value for key, value in self.trainer_defaults.items() if key != "callbacks"}
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(super_defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses what it is given, never the process's own arguments."""
        self.config = parser.parse_args(args)

    def _set_seed(self) -> None:
        """Nothing is drawn from the global generators."""

    def _parse_ckpt_path(self) -> None:
        """A checkpoint's arguments never replace those given."""

    def resolved(self) -> dict[str, Any]:
        """Every argument of the task, the data and the trainer, as plain values."""
        self._dump_config()
        return {section: self.config_dump[section] for section in SECTIONS}


def parse(
    layers: Sequence[Layer],
    own: argparse.Namespace,
    arguments: Sequence[str],
    run_dir: str,
) -> tuple[CommandLine, dict[str, Any]]:
    """Task, data and trainer from the layers and the command line.

    Returns:
        The built classes, and the whole configuration as plain values, with the variables that presets have in it.
    """
    task, data = choose_classes(layers, own.model, own.data)
    joined = join_values(arguments, list_flags(task, data))
    kept = check_keys(layers, joined, task, data)
    said = said_by_user(kept, own.config or [], joined)
    joined, deep = take_deep(joined)
    template = merge([*(layer.values for layer in kept), deep])
    ours = {key: template.pop(key, None) for key in OWN_KEYS}
    ours |= {key: value for key in OWN_KEYS if (value := getattr(own, key, None)) is not None}
    if ours["max_tokens"] is not None:
        ours["max_tokens"] = int(budget("max_tokens", ours["max_tokens"], 1, "20e6"))
    if ours["max_hours"] is not None:
        ours["max_hours"] = budget("max_hours", ours["max_hours"], 1e-6, "0.5")
    config = fill_in(template, {"run_dir": run_dir, **ours})
    if ours["seed"] is not None:
        config.setdefault("model", {})["seed"] = config.setdefault("data", {})["seed"] = ours["seed"]
    line = CommandLine(task, data, config, joined)
    resolved = {"model": {CLASS: task.__name__}, "data": {CLASS: data.__name__}}
    given = {key: value for key, value in ours.items() if value is not None}
    full = merge([put_back(line.resolved(), template), resolved, given])
    refuse_unused(said, full)
    return line, full
