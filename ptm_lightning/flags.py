"""The first pass over the command line: the flags of each command that aren't a class's arguments."""

import argparse
from math import inf
from typing import Any, NoReturn

from ptm_lightning.errors import UserError
from ptm_lightning.levers import LEVERS

WITHOUT_SETTINGS = ("list", "export", "compare")
"""Commands that take no settings of classes."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def own_flags(command: str) -> argparse.ArgumentParser:
    """The flags of a command that aren't a class's arguments."""
    parser = _Parser(
        prog=f"ptm_lightning {command}",
        add_help=False,
        allow_abbrev=False,
        usage=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this help")
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="code of your own with tasks or callbacks (it is run); repeatable",
    )
    parser.set_defaults(config=[], model=None, data=None, run_dir=None, seed=None, seeds=None)
    if command == "compare":
        add("runs", nargs="*", metavar="RUN", help="run folders; one with several seeds counts as one run")
        add("--split", choices=("val", "test"), help="compare this one only (default: both)")
    if command not in WITHOUT_SETTINGS:
        _add_settings(parser)
    if command == "fit":
        _add_fit(parser)
    if command in ("validate", "test", "predict", "export"):
        add("--run_dir", metavar="DIR", help="the run (default: the newest one)")
        add("--checkpoint", default="best", metavar="best|last|FILE", help="which one of the run (default: best)")
    if command == "predict":
        add("--text", action="append", metavar="TEXT", help="a text to predict for; repeatable")
        add("--output", metavar="FILE", help="where to write JSON lines (.json: {id: prediction}; default: the screen)")
    if command == "export":
        add("--output", metavar="DIR", help="the folder to make (default: model in the run folder)")
        add("--auxiliary", action="store_true", help="write networks that only training needs too, such as a generator")
        add("--adapter", action="store_true", help="write the adapters (LoRA) beside the merged model, too")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--config",
        action="append",
        metavar="NAME_OR_PATH",
        help="a preset or a YAML file; repeatable, later ones win",
    )
    add("--model", metavar="CLASS", help="the task, such as MaskedLM; its data module follows")
    add("--data", metavar="CLASS", help="another data module than the task's own")
    add("--seed", type=int, metavar="N", help="of weights, dropout, data order and noise")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run_dir", metavar="DIR", help="where everything of the run lies (default: runs/PRESET/TIME)")
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on where a run stopped (default: the newest unfinished one)",
    )
    add(
        "--init_from",
        metavar="WHAT",
        help="start from the network, weights and tokenizer of another run (its best checkpoint), of a checkpoint "
        "file, of a transformers folder, or of a model on the hub",
    )
    add("--seeds", type=int, nargs="+", metavar="N", help="a run for each of so many seeds, or of the seeds named here")
    add("--max_tokens", metavar="N", help="end after this many tokens (20e6)")
    add(
        "--max_hours",
        metavar="HOURS",
        help="end after this time; turned into steps once the speed is known",
    )
    add(
        "--off",
        nargs="+",
        choices=LEVERS,
        default=[],
        metavar="LEVER",
        help=f"do without what is faster on a CPU: {'; '.join(f'{name} ({what})' for name, what in LEVERS.items())}",
    )
    add("--dry_run", action="store_true", help="check everything, say what would be done, and stop")


def budget(name: str, value: Any, least: float, example: str) -> float:
    """The number in a budget as people write it, such as 20e6, on the command line or in YAML.

    Raises:
        UserError: It is none, or too small.
    """
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        number = 0.0
    if not least <= number < inf:
        raise UserError(f"--{name} {value}: give a number above 0, such as {example}")
    return number
