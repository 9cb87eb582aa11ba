"""python -m ptm_lightning, and the console script ptm: answers help without importing torch."""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ptm_lightning.errors import UserError, suggest

COMMANDS = {
    "fit": "train a task; with no argument, a small BERT on text that Python carries",
    "validate": "evaluate a run's model on the validation data",
    "test": "evaluate a run's model on the test data",
    "predict": "predict with a run's model, for files or --text",
    "export": "make a folder that transformers loads from a run's checkpoint",
    "inspect": "show real batches before training: what is masked, what the target is",
    "check": "hold an objective to its own words, on your tokenizer and text",
    "compare": "compare runs: metrics over seeds, and whether differences are more than chance",
    "list": "show tasks, data modules, callbacks and presets",
}


def usage() -> str:
    """The program's help."""
    commands = "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items())
    return f"""Pretrain and fine-tune language models: ptm COMMAND [flags], or python -m ptm_lightning COMMAND [flags]

{commands}

  ptm fit                                          train the embedded default, in about two minutes
  ptm fit --config mlm --data.train corpus/*.txt   pretrain a BERT on your text
  ptm fit --config mlm --help                      every setting of that task
  ptm --version
"""


def _commands() -> ModuleType:
    """What runs the commands, with all that it imports.

    The half million objects of torch and Lightning stay until the process ends. The garbage collector would go through
    them again and again while they are imported, at each full collection of the training, and twice at the end.
    """
    name = "ptm_lightning.cli"
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        commands = import_module(name)
        gc.freeze()
    finally:
        gc.enable()
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: As after the program's name; default: the process's own.

    Returns:
        The exit status: 0 done, 2 a mistake of the user's, 130 ended by Ctrl-C, 143 by SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if given[0] == "--version":
        print(import_module("ptm_lightning").__version__)
        return 0
    try:
        if given[0] not in COMMANDS:
            raise UserError(f"{given[0]!r} is no command; {suggest(given[0], COMMANDS)}")
        status: int = _commands().run(given[0], given[1:])
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
