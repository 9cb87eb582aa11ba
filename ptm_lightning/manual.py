"""The help of a command: what a user of the task sets, first."""

import argparse
import inspect
import shutil
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse_from_object
from lightning.pytorch import Trainer

from ptm_lightning.commandline import OWN_KEYS, check_keys, choose_classes
from ptm_lightning.flags import WITHOUT_SETTINGS, own_flags
from ptm_lightning.presets import Layer, merge

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
WORDS = {str: "TEXT", int: "N", float: "NUMBER", bool: "true|false"}


def print_help(command: str, own: argparse.Namespace, layers: Sequence[Layer]) -> None:
    """Prints the flags of a command, with the values that the presets or the command line's task give them."""
    print(f"ptm {command} [flags]\n")
    print(own_flags(command).format_help().replace("options:\n", "").strip("\n"))
    if command in WITHOUT_SETTINGS:
        return
    task, data = choose_classes(layers, own.model, own.data)
    values = merge(layer.values for layer in check_keys(layers, [], task, data))
    if command == "fit" and (ours := [f"--{key} {values[key]}" for key in OWN_KEYS if values.get(key) is not None]):
        print(f"\nSet already: {' '.join(ours)}")
    for cls, section in ((task, "model"), (data, "data")):
        print(f"\n{cls.__name__}: {first_line(cls)}")
        _print_arguments(cls, section, values.get(section) or {})
    print("\nLightning's Trainer, the flags set most often (all others are taken too: --trainer.NAME VALUE):")
    _print_trainer(values.get("trainer") or {})


def first_line(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _print_arguments(cls: type, section: str, values: Mapping[str, Any]) -> None:
    """Own arguments first, then those of the base class."""
    described = {
        parameter.arg_name: parameter.description or ""
        for base in reversed(cls.__mro__[:-1])  # a class may say another thing than its base
        for parameter in _documented(base)
    }
    inherited = {item.name for base in cls.__bases__ for item in getattr(base, "__dataclass_fields__", {}).values()}
    items: list[Field[Any]] = sorted(fields(cls), key=lambda item: item.name in inherited)
    for item in items:
        value = values.get(item.name, _default(item))
        _print_flag(f"--{section}.{item.name}", kind(item.type), described.get(item.name, ""), value)


def _print_trainer(values: Mapping[str, Any]) -> None:
    described = {item.arg_name: item.description or "" for item in parse_from_object(Trainer.__init__).params}
    parameters = inspect.signature(Trainer).parameters
    for name in TRAINER_FLAGS:
        sentence = " ".join(described.get(name, "").split()).partition(". ")[0].rstrip(".") + "."
        _print_flag(f"--trainer.{name}", "VALUE", sentence, values.get(name, parameters[name].default))


def _print_flag(flag: str, kind: str, text: str, value: Any) -> None:
    """A flag, how its value is written, and below it what it is for; a default of none needs no words."""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    default = "" if value in (None, "") else f" (default: {getattr(value, '__name__', value)})"
    joint = "." if kind.startswith("NAME") else " "
    print(f"  {flag}{joint}{kind}")
    width = shutil.get_terminal_size().columns
    print(textwrap.fill(text.replace("``", "'") + default, width, initial_indent=" " * 8, subsequent_indent=" " * 8))


def _documented(cls: type) -> list[Any]:
    if cls.__module__.startswith(("lightning.", "torch.")):
        return []
    return parse_from_object(cls).params


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def kind(hint: Any) -> str:
    """How the value of an argument is written on the command line, such as "N", "a|b" or "TEXT ..."."""
    origin, arguments = get_origin(hint), [each for each in get_args(hint) if each is not type(None)]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(kind, arguments)))
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is list:
        return f"{kind(arguments[0])} ..."
    if origin is tuple:
        return " ".join(map(kind, arguments))
    if origin is dict:
        inner = kind(arguments[1])
        return f"NAME{'.' if inner.startswith('NAME') else ' '}{inner}"
    return WORDS.get(hint, "VALUE")
