"""The parts of a mixture as the user names them: a task each, its weight, and settings of its data."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError, readable, suggest
from ptm_lightning.plugins import find_class, subclasses
from ptm_lightning.task import Task

OF_THE_SOURCES = frozenset({"train", "validation", "test", "weights", "columns", "split_text"})
"""Settings that a part with a `train` of its own doesn't take over: they belong to the mixture's sources."""
OF_THE_MIXTURE = frozenset({"tokenizer", "tokenizer_algorithm", "vocab_size", "predict", "text", "cache_dir"})
OF_THE_MIXTURE |= {"new_words", "num_workers"}
"""Settings that a part can't have for itself."""
OF_A_TOKENIZER = frozenset({"tokenizer_algorithm", "new_words"})
"""Settings that only the mixture acts on."""
BATCH = frozenset({"batch_tokens", "batch_size"})
"""Settings that stand for each other."""


@dataclass(frozen=True)
class Part:
    """One of them."""

    name: str
    task: type[Task]
    weight: float | None
    """Share of the optimizer steps; None: by size."""
    settings: dict[str, Any]
    """Of the task's data module."""

    def module(self, mixture: Any) -> TaskData:
        """The part's data module; what it doesn't set is as in the mixture.

        Args:
            mixture: A data module.

        Raises:
            UserError: A setting has a wrong name or type, or is the mixture's.
        """
        left = OF_A_TOKENIZER | self.settings.keys()
        if "train" in self.settings:
            left |= OF_THE_SOURCES
        if BATCH & self.settings.keys():
            left |= BATCH
        with self.flags():
            own = self._checked()
            known = {item.name for item in fields(self.task.data_class)}  # type: ignore[arg-type]
            shared = (known & vars(mixture).keys()) - left
            module = self.task.data_class(**{name: getattr(mixture, name) for name in shared}, **own)
            if not module.train:
                raise UserError(f"--data.train: give a source, for the part {self.name}")
            return module

    def of_run(self, arguments: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The part's arguments in a run, if a run's model is evaluated; what it didn't set is as in the mixture."""
        if arguments is None:
            return None
        own = arguments["parts"].get(self.name, {})
        return own if "train" in own else {**arguments, **own}

    def _checked(self) -> dict[str, Any]:
        """The settings, with the types that the data module wants; a single source is a list of one."""
        data: Any = self.task.data_class
        known = {item.name: str(item.type) for item in fields(data)}
        for key in self.settings:
            if key in OF_THE_MIXTURE:
                raise UserError(f"--data.{key}: all parts share it; give it to the mixture, not to {self.name}")
            if key not in known:
                raise UserError(f"--data.{key}: {data.__name__} has no {key!r}; {suggest(key, known)}")
        lists = {k: [v] for k, v in self.settings.items() if "list[" in known[k] and isinstance(v, str)}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(data)
        try:
            checked = parser.parse_object(self.settings | lists)
        except ArgumentError as error:
            raise UserError(readable(str(error)).replace("--", "--data.", 1)) from None
        return {key: checked[key] for key in self.settings}

    @contextmanager
    def flags(self) -> Iterator[None]:
        """Messages about the part's own settings name its own flags."""
        try:
            yield
        except UserError as error:
            flag = re.match(r"--data\.(\w+)", str(error))
            if flag is None or flag[1] not in self.settings:
                raise
            raise UserError(str(error).replace("--data.", f"--data.parts.{self.name}.", 1)) from error


def read_parts(given: Mapping[str, Any]) -> dict[str, Part]:
    """The parts by name.

    Args:
        given: By name, {"task": "MaskedLM", "weight": 0.2, and settings of MaskedLM's data}.

    Raises:
        UserError: There is none, one has no task, their networks differ, or a weight is missing or no number.
    """
    if not given:
        raise UserError(
            "--data.parts: name each part and its task in a --config file, such as "
            "data: {parts: {words: {task: MaskedLM, masking: word}, spans: {task: MaskedLM, masking: span}}}"
        )
    parts = {name: _read(name, told) for name, told in given.items()}
    _check_heads(list(parts.values()))
    _check_weights(list(parts.values()))
    return parts


def find_task(name: str, part: str) -> type[Task]:
    """The class of a part's task."""
    return find_class(name, Task, f"--data.parts.{part}.task")


def _read(name: str, told: Any) -> Part:
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"--data.parts.{name}: name a part with letters, digits, - and _ only")
    if not isinstance(told, Mapping) or not isinstance(told.get("task"), str):
        raise UserError(f"--data.parts.{name}: say its task, such as --data.parts.{name}.task MaskedLM")
    weight = told.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise UserError(f"--data.parts.{name}.weight {weight}: give a number, such as 0.2; 0 only validates")
        weight = float(weight)
    settings = {key: value for key, value in told.items() if key not in ("task", "weight")}
    return Part(name, find_task(told["task"], name), weight, settings)


def _check_heads(parts: list[Part]) -> None:
    """One network has one head. A task whose head isn't always the same, as a mixture's, is no part."""
    found = {name: getattr(task, "auto_class", None) for name, task in subclasses(Task).items()}
    heads = {name: head if isinstance(head, str) else None for name, head in found.items()}
    first = heads[parts[0].task.__name__]
    fitting = sorted(name for name, head in heads.items() if head and head == first)
    for part in parts:
        if part.task.__name__ not in fitting:
            raise UserError(
                f"--data.parts.{part.name}.task {part.task.__name__}: the parts share one network, and that of "
                f"{parts[0].task.__name__} has another head; it fits: {', '.join(fitting) or 'none'}"
            )


def _check_weights(parts: list[Part]) -> None:
    missing = [part.name for part in parts if part.weight is None]
    if missing and len(missing) < len(parts):
        raise UserError(f"--data.parts.{missing[0]}.weight: other parts have a weight; give this one its own")
    if not missing and not any(part.weight for part in parts):
        raise UserError("--data.parts: all weights are 0; give at least one part a share of the steps")


def sum_up(provenances: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The parts' provenance in one; their unigram losses are rows of their own."""
    every = list(provenances.values())
    sources = {
        key: list(dict.fromkeys(source for each in every for source in each[key]))
        for key in ("sources", "validation_sources")
    }
    numbers = {
        split: {key: sum(each[split][key] for each in every) for key in every[0][split]}
        for split in ("train", "validation")
    }
    losses = {f"unigram loss of {name}": round(each["unigram_loss"], 4) for name, each in provenances.items()}
    return {**sources, **numbers, **losses}
