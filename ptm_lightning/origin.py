"""What a run starts from: a checkpoint, another run, a transformers folder, or a model on the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ptm_lightning.checkpoint import KEY, best, load_checkpoint, load_weights
from ptm_lightning.errors import UserError
from ptm_lightning.link import Link
from ptm_lightning.log import say
from ptm_lightning.models.config import first_line
from ptm_lightning.presets import Layer, flatten
from ptm_lightning.task import Task

NETWORK = ("backbone", "architecture", "size", "overrides")
"""Arguments of a task that say what its network is."""
TRAINED = ("vocab_size", "tokenizer_algorithm")
"""Arguments of a data module that say how a tokenizer is trained."""


def start_from(task: Task, checkpoint: Path) -> None:
    """Gives a task the network, the weights and the tokenizer of a checkpoint of the same task, and nothing else."""
    saved = load_checkpoint(checkpoint)
    if (writer := saved[KEY]["task"]) != (name := type(task).__name__):
        raise UserError(
            f"--checkpoint {checkpoint}: was written by {writer}, and this is a run of {name}; name one of its own"
        )
    _start_from(task, checkpoint, saved)


def take_link(task: Task, checkpoint: Path) -> None:
    """Tells a task what network and tokenizer a checkpoint has, whose weights it will get."""
    _take_link(task, load_checkpoint(checkpoint))


def _start_from(task: Task, checkpoint: Path, saved: dict[str, Any]) -> None:
    _take_link(task, saved)
    task.configure_model()
    load_weights(task, saved, checkpoint)


def _take_link(task: Task, saved: dict[str, Any]) -> None:
    task.link = Link(**saved[KEY]["link"])
    _take_arguments(task, {name: saved["hyper_parameters"][name] for name in NETWORK})


def start_run(task: Task, name: str) -> None:
    """Gives a task what a new run shall start from.

    Args:
        task: Yet without a network.
        name: A run folder (its best checkpoint is taken), a checkpoint, a transformers folder, or a name on the hub.

    Raises:
        UserError: There is nothing of that name.
    """
    if (checkpoint := _checkpoint(name)) is None:
        _take_arguments(task, {"backbone": name, "overrides": None})
        return
    saved = load_checkpoint(checkpoint)
    if why := _needs_export(task, saved):
        folder = checkpoint.parent.parent / "model"
        if not (folder / "config.json").exists():
            raise UserError(f"--init_from {name}: {why}; export it and give --init_from the folder")
        say(f"--init_from {name}: {why}; starting from {folder}")
        _take_arguments(task, {"backbone": str(folder), "overrides": None})
        return
    _start_from(task, checkpoint, saved)
    assert task.link is not None
    task.link = replace(task.link, new_tokens={})  # to this run they are tokens like all others


def _needs_export(task: Task, saved: dict[str, Any]) -> str | None:
    """Why the weights of a checkpoint aren't the task's as they are; None if they are."""
    own = getattr(task, "auto_class", None)  # a mixture takes what it gets
    theirs: str | None = saved[KEY]["link"].get("auto_class")
    if own and theirs not in (own, *getattr(task, "heads", ())):
        return f"is an {theirs}"
    if saved["hyper_parameters"].get("lora_rank"):
        return "has adapters, which are merged in its export"
    return "gets adapters" if getattr(task, "lora_rank", 0) else None


def _take_arguments(task: Task, arguments: dict[str, Any]) -> None:
    """Changes arguments for good, so that the run's config, checkpoints and model card tell the truth."""
    for name, value in arguments.items():
        setattr(task, name, value)
    task.hparams.update(arguments)


def _checkpoint(name: str) -> Path | None:
    """The checkpoint that --init_from names; None for a transformers folder or a model on the hub."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir() and not (path / "config.json").exists():
        if found := best(path / "checkpoints"):
            return found
        raise UserError(f"--init_from {name}: the folder is neither a run with a checkpoint nor a transformers folder")
    try:
        AutoConfig.from_pretrained(str(path) if path.is_dir() else name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--init_from {name}: no run, checkpoint or transformers folder, and no such model on the hub "
            f"({first_line(error)})"
        ) from error
    return None


def said_by_user(layers: Sequence[Layer], files: Sequence[str], arguments: Sequence[str]) -> dict[str, str]:
    """What the user says, and no preset: by dotted key, where it stands.

    Args:
        layers: The presets and files.
        files: What --config names.
        arguments: The flags, each with its value behind "=".
    """
    said = {
        key: f"{layer.place(key)}: {key}"
        for layer in layers
        if layer.name in files and Path(layer.name).suffix
        for key in flatten(layer.values)
    }
    flags = (argument.partition("=")[0] for argument in arguments)
    return said | {flag.removeprefix("--"): flag for flag in flags}


def refuse_unused(said: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Refuses what a pretrained network or a given tokenizer leaves without effect.

    Args:
        said: What the user says.
        config: The whole configuration.

    Raises:
        UserError: Naming both.
    """
    backbone, tokenizer = config["model"].get("backbone"), config["data"].get("tokenizer")
    start = "--init_from" if config.get("init_from") else f"--model.backbone {backbone}" if backbone else None
    if start is not None:
        names = NETWORK if config.get("init_from") else [name for name in NETWORK if name != "backbone"]
        _refuse(said, [f"model.{name}" for name in names], start, "network")
    owner = start if tokenizer is None else None if tokenizer == "train" else f"--data.tokenizer {tokenizer}"
    if owner is not None:
        _refuse(said, [f"data.{name}" for name in TRAINED], owner, "tokenizer")


def _refuse(said: Mapping[str, str], keys: Sequence[str], owner: str, what: str) -> None:
    for key, place in said.items():
        if any(key == name or key.startswith(f"{name}.") for name in keys):
            raise UserError(f"{place}: {owner} brings its own {what}; leave one of them out")
