"""The help of a command: what a user of the task sets, first."""

import argparse
import inspect
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from docstring_parser import parse_from_object
from lightning.pytorch import Trainer

from ptm_lightning.commandline import choose_classes, own_flags
from ptm_lightning.presets import Layer

TRAINER_FLAGS = (
    "max_steps",
    "max_epochs",
    "precision",
    "accelerator",
    "devices",
    "strategy",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "val_check_interval",
    "log_every_n_steps",
)
"""What is set most often; all of Lightning's are taken."""


def print_help(command: str, own: argparse.Namespace, layers: Sequence[Layer]) -> None:
    """Prints the flags of a command, with the defaults of the task that the presets or the command line name."""
    print(f"ptm {command} [flags]\n")
    print(own_flags(command).format_help().replace("options:\n", "").strip("\n"))
    if command in ("list", "export"):
        return
    task, data = choose_classes(layers, own.model, own.data)
    for cls, section in ((task, "model"), (data, "data")):
        print(f"\n{cls.__name__}: {first_line(cls)}")
        _print_arguments(cls, section)
    print("\nLightning's Trainer, the flags set most often (all others are taken too: --trainer.NAME VALUE):")
    parameters = inspect.signature(Trainer).parameters
    for name in TRAINER_FLAGS:
        print(f"  --trainer.{name} (default: {parameters[name].default})")


def first_line(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _print_arguments(cls: type, section: str) -> None:
    """Own arguments first, then those of the base class."""
    described = {
        parameter.arg_name: parameter.description or "" for base in cls.__mro__[:-1] for parameter in _documented(base)
    }
    inherited = {item.name for base in cls.__bases__ for item in getattr(base, "__dataclass_fields__", {}).values()}
    items: list[Field[Any]] = sorted(fields(cls), key=lambda item: item.name in inherited)
    width = shutil.get_terminal_size().columns
    for item in items:
        text = f"{described.get(item.name, '')} (default: {_default(item)})"
        flag = f"  --{section}.{item.name} {_kind(item)}"
        print(flag)
        print(textwrap.fill(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8))


def _documented(cls: type) -> list[Any]:
    if cls.__module__.startswith(("lightning.", "torch.")):
        return []
    return parse_from_object(cls).params


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _kind(item: Field[Any]) -> str:
    if isinstance(item.type, type):
        return item.type.__name__
    return str(item.type).replace("typing.", "").replace(" | None", "")
