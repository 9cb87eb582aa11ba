"""How long commands take to start. Each measurement is a process of its own, a user's command as it stands.

A run is measured from its start to the end of its first optimizer step, without the validation before that, which is as
long as the user's validation data. What earlier runs leave is there: bytecode, tokenizer, tokens, choice of kernels.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lightning.pytorch import Callback

if TYPE_CHECKING:  # this file is a plug-in, too, far from the other benchmarks
    from clock import Job

PROGRAM = (sys.executable, "-m", "ptm_lightning")
IMPORTS = "import torch, lightning.pytorch; from transformers import BertForMaskedLM; import os; os._exit(0)"
"""What no run can do without; like a run that ends with its first step, it ends without tidying up."""
STEPS = 1000
"""Of the run. In epochs it would have to count their steps first, which takes the longer the more there are."""
COMMANDS: Mapping[str, Sequence[str]] = {
    "imports": (sys.executable, "-c", IMPORTS),
    "fit --help": (*PROGRAM, "fit", "--help"),
    "--help": (*PROGRAM, "--help"),
    "--version": (*PROGRAM, "--version"),
}


class EndWithFirstStep(Callback):
    """Ends the process, at once, when the first optimizer step is done."""

    def on_train_batch_end(self, *args: object) -> None:
        """There is one batch in a step."""
        os._exit(0)


def first_step(job: "Job", run_dir: Path) -> list[str]:
    """The command that trains a tiny network on the job's text, and ends with its first step."""
    values = {
        "--plugin": __file__,
        "--model": "MaskedLM",
        "--model.size": "tiny",
        "--data.tokenizer": job.folder,
        "--data.max_length": job.max_length,
        "--data.batch_tokens": job.batch_tokens,
        "--data.cache_dir": job.cache or Path(job.folder) / "cache",
        "--trainer.accelerator": "cpu",
        "--trainer.max_steps": STEPS,
        "--trainer.num_sanity_val_steps": 0,
        "--trainer.callbacks+": EndWithFirstStep.__name__,
        "--run_dir": run_dir,
    }
    return [*PROGRAM, "fit", *(f"{flag}={value}" for flag, value in values.items()), "--data.train", *job.text]


def measure(command: Sequence[str], job: "Job") -> dict[str, float]:
    """Runs a command to its end.

    Returns:
        "seconds" by the clock, and "cpu_seconds" of all its threads and processes.

    Raises:
        SystemExit: It failed; with the end of what it said.
    """
    environment = os.environ | {"PTM_CACHE": str(Path(job.folder) / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else our files were compiled anew, unlike the libraries'
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": busy}


def start(name: str, job: "Job") -> dict[str, float]:
    """Measures "first step", or one of `COMMANDS`."""
    if name in COMMANDS:
        return measure(COMMANDS[name], job)
    with TemporaryDirectory() as folder:
        return measure(first_step(job, Path(folder) / "run"), job)


def starts(job: "Job", pairs: int) -> dict[str, list[dict[str, float]]]:
    """All of them in turns, after one turn that isn't measured: it leaves what a second start finds.

    Args:
        job: Its folder holds a tokenizer.
        pairs: Turns.

    Returns:
        By name, one measurement for each turn.
    """
    names = ("first step", *COMMANDS)
    for name in names:
        start(name, job)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(pairs):
        for name, found in turns.items():
            found.append(start(name, job))
    return turns
