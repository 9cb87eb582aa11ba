"""The commands."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback

from ptm_lightning.card_scores import show_scores
from ptm_lightning.check import check
from ptm_lightning.checkpoint import best, newest_valid
from ptm_lightning.commandline import CommandLine, parse
from ptm_lightning.compare import compare
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError, suggest
from ptm_lightning.export import export
from ptm_lightning.files import disk_is_full
from ptm_lightning.fitting import RUNS, layers_of
from ptm_lightning.flags import WITHOUT_SETTINGS, own_flags
from ptm_lightning.inspection import print_batches
from ptm_lightning.log import say, set_up_logging
from ptm_lightning.manual import first_line, print_help
from ptm_lightning.models.cores import limit_threads
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.origin import start_from
from ptm_lightning.plugins import find_class, load_plugins, subclasses
from ptm_lightning.predictions import write_predictions
from ptm_lightning.presets import CLASS, preset_names, read_layer
from ptm_lightning.run import (
    newest,
    read_config,
    read_state,
    seeds_of,
)
from ptm_lightning.scores import Evaluated, Split
from ptm_lightning.seeds import fit_seeds, print_over_seeds, runs_of
from ptm_lightning.summary import print_metrics
from ptm_lightning.task import Task

TRAINING_BATCHES = ("batch_size", "batch_tokens")


def run(command: str, arguments: Sequence[str]) -> int:
    """Runs a command.

    Args:
        command: One of `ptm_lightning.__main__.COMMANDS`.
        arguments: What follows it.

    Returns:
        The exit status.

    Raises:
        UserError: For the user's mistakes.
    """
    set_up_logging()
    own, rest = own_flags(command).parse_known_args(list(arguments))
    load_plugins(own.plugin)
    if own.help:
        print_help(command, own, layers_of(own))
        return 0
    try:
        if command == "fit":
            return fit_seeds(own, rest)
        if command in WITHOUT_SETTINGS and rest:
            raise UserError(f"{rest[0]}: {command} has no such flag (python -m ptm_lightning {command} --help)")
        if command == "list":
            return list_known()
        if command == "inspect":
            return inspect(own, rest)
        if command == "check":
            return check_objective(own, rest)
        if command == "compare":
            return compare(own.runs, own.split)
        if command == "export":
            return export_run(own)
        return evaluate(command, own, rest)
    except MisconfigurationException as error:
        raise UserError(str(error).splitlines()[0]) from error
    except Exception as error:
        if disk_is_full(error):
            raise UserError(
                "no space left on disk; make room, or choose other places with --run_dir, --data.cache_dir and $TMPDIR"
            ) from error
        raise


def _run_folder(own: argparse.Namespace) -> Path:
    """The run that a command is about."""
    folder = Path(own.run_dir) if own.run_dir else newest(RUNS)
    if folder is None:
        raise UserError(f"--run_dir: there is no run below {RUNS}; train one with fit, or name its folder")
    if not seeds_of(folder) and not (folder / "config.yaml").exists():
        raise UserError(f"--run_dir {folder}: there is no run in it")
    if not own.run_dir:
        say(f"taking the newest run, {folder}")
    return folder


def _one_run(own: argparse.Namespace) -> Path:
    """The same, of a single seed."""
    folder = _run_folder(own)
    if seeds_of(folder):
        raise UserError(f"--run_dir {folder}: holds one for each seed; name one of them, such as {runs_of(folder)[0]}")
    return folder


def _checkpoint(own: argparse.Namespace, folder: Path) -> Path:
    """The checkpoint of a run that a command is about."""
    if own.checkpoint not in ("best", "last"):
        return Path(own.checkpoint)
    checkpoints = folder / "checkpoints"
    path = best(checkpoints) if own.checkpoint == "best" else newest_valid(checkpoints)[0]
    if path is None:
        raise UserError(f"--run_dir {folder}: no checkpoint in it yet")
    return path


def evaluate(command: str, own: argparse.Namespace, rest: list[str]) -> int:
    """Validates, tests or predicts with a run's model, that of each seed, or with a backbone."""
    if own.config or own.model:
        line, _ = parse(layers_of(own, base=_base(command)), own, _with_texts(own, rest), "")
        _evaluate(command, own, line, str(line.model.backbone))
        return 0
    runs = [_one_run(own)] if command == "predict" else runs_of(_run_folder(own))
    if len(runs) > 1 and own.checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint {own.checkpoint}: is of one seed; name its run, such as --run_dir {runs[0]}")
    over_seeds = []
    for folder in runs:
        checkpoint = _checkpoint(own, folder)
        line = _line_of_run(command, own, rest, folder)
        if len(runs) > 1 and line.trainer.world_size > 1:
            raise UserError(f"--trainer.devices: with several seeds, only 1; name one, such as --run_dir {runs[0]}")
        start_from(line.model, checkpoint)
        metrics = _evaluate(command, own, line, str(checkpoint))
        over_seeds.append(metrics)
        if command != "predict":
            _keep("val" if command == "validate" else "test", line, folder, checkpoint, metrics)
    if len(runs) > 1:
        print_over_seeds(over_seeds)
    return 0


def _keep(split: Split, line: CommandLine, run: Path, checkpoint: Path, metrics: dict[str, float]) -> None:
    """Writes an evaluation into the run folder and onto the model card, if it is a whole one of the best checkpoint."""
    limit = getattr(line.trainer, f"limit_{split}_batches")
    whole = isinstance(limit, float) and limit == 1.0  # the integer 1 is a single batch
    if whole and line.trainer.is_global_zero and checkpoint == best(run / "checkpoints"):
        Evaluated.of(line.model, line.datamodule, split, checkpoint.name, metrics).write(run)
        show_scores(run, run / "model")


def _base(command: str) -> str:
    return "predict" if command == "predict" else "evaluate"


def _line_of_run(command: str, own: argparse.Namespace, rest: list[str], folder: Path) -> CommandLine:
    """A run's task, with its data as the command line changes them."""
    stored = read_config(folder)
    free = find_class(stored["model"][CLASS], Task, "--model").prediction_arguments if command == "predict" else ()
    for flag in rest:
        if flag.startswith("--model.") and flag.partition("=")[0].removeprefix("--model.") not in free:
            raise UserError(f"{flag}: the model is the run's; leave it out")
    kept = {
        "model": stored["model"],
        # Training's batches are small: predicting keeps no activations.
        "data": {k: v for k, v in stored["data"].items() if command != "predict" or k not in TRAINING_BATCHES},
        "trainer": {"precision": stored["trainer"]["precision"]},
    }
    line, _ = parse(layers_of(own, kept, base=_base(command)), own, _with_texts(own, rest), str(folder))
    line.datamodule.run_arguments = stored["data"]
    return line


def _evaluate(command: str, own: argparse.Namespace, line: CommandLine, weights: str) -> dict[str, float]:
    """Does what the command says with weights from somewhere; the metrics, of an evaluation."""
    if line.trainer.strategy.root_device.type == "cpu":
        limit_threads()
        prepare_cpu()
    if command == "predict":
        write_predictions(line.trainer, line.model, line.datamodule, own.output, weights)
        return {}
    verb = line.trainer.validate if command == "validate" else line.trainer.test
    metrics = dict(verb(line.model, line.datamodule, verbose=False)[0])
    if line.trainer.is_global_zero:
        print_metrics(metrics)
    return metrics


def _with_texts(own: argparse.Namespace, rest: list[str]) -> list[str]:
    texts = getattr(own, "text", None)
    return [*rest, f"--data.text={json.dumps(texts)}"] if texts else rest


def export_run(own: argparse.Namespace) -> int:
    """Makes a transformers folder from a checkpoint."""
    folder = _one_run(own)
    checkpoint = _checkpoint(own, folder)
    name = (read_state(folder) or {}).get("task", "")
    task = subclasses(Task).get(name)
    if task is None:
        raise UserError(
            f"--plugin: the run's task {name} is not known; name the file it is in; {suggest(name, subclasses(Task))}"
        )
    output = Path(own.output) if own.output else folder / "model"
    export(checkpoint, output, task, auxiliary=own.auxiliary, adapter=own.adapter)
    show_scores(folder, output)
    print(f"{checkpoint} is now a transformers folder: {output}")
    return 0


def inspect(own: argparse.Namespace, rest: list[str]) -> int:
    """Prints real batches and what the data are like."""
    line, _ = parse(layers_of(own, base="evaluate"), own, rest, "")
    print_batches(line.model, line.datamodule, line.trainer)
    return 0


def check_objective(own: argparse.Namespace, rest: list[str]) -> int:
    """Holds an objective to its own words; the status is 1 if it doesn't keep them."""
    line, _ = parse(layers_of(own, base="evaluate"), own, rest, "")
    return 0 if check(line.model, line.datamodule, line.trainer) else 1


def list_known() -> int:
    """Prints everything that can be named."""
    kinds = {"tasks": Task, "data modules": TaskData, "callbacks": Callback}
    for title, base in kinds.items():
        known: dict[str, type] = subclasses(base)
        own = {name: cls for name, cls in known.items() if not cls.__module__.startswith("lightning.")}
        print(f"{title}:")
        for name, cls in sorted(own.items()):
            print(f"  {name:<28}{first_line(cls)}")
        if lightnings := sorted(known.keys() - own.keys()):
            print(textwrap.fill(", ".join(lightnings), 110, initial_indent="  Lightning's: ", subsequent_indent="    "))
    print("presets (--config NAME):")
    for name in preset_names():
        print(f"  {name:<28}{read_layer(name).summary}")
    return 0
