"""Proves that no work is lost: a run killed again and again ends in the same bits as one that was left alone.

    python benchmarks/kills.py                  20 deaths by SIGKILL, one after another, on one process
    python benchmarks/kills.py --processes 2    the same with two processes (DDP)

Both runs have accumulation over 3 micro-batches, ragged rows, dropout, weight averaging, 2 data workers, and
validation and checkpoints in between. The killed one is started again by `fit --resume` each time. At the end their
checkpoints (weights, averages, optimizer) and their recorded losses are compared bit by bit. Besides, a checkpoint is
written with a death at every single system call of writing it. The exit status is 1 if anything differs.
"""

import argparse
import csv
import json
import os
import pydoc_data.topics
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import torch
from kill_at import AFTER, BEFORE, DURING, Death, has_strace, variables
from sweep import difference, sweep

from ptm_lightning.checkpoint import SafeCheckpointIO, newest_valid, step_files

TIMEOUT_SECONDS = 300
ACCUMULATE = 3
NETWORK = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
CORPUS_CHARACTERS = 90_000
SECONDS_AT_RANDOM = 0.3
RENAME, UNLINK = "^rename(at2?)?$", "^unlink(at)?$"
WRITING = [("^write$", 2), ("^fsync$", 1), (RENAME, 1), ("^fsync$", 2), ("^fsync$", 3), (UNLINK, 1), (RENAME, 2)]
"""System calls of a checkpoint: its content, its sync, its name, its folder's sync, the index, the old ones' end."""


def settings(corpus: Path, run_dir: Path, cache: Path, steps: int, processes: int) -> list[str]:
    """The command's arguments."""
    arguments = {
        "model": "MaskedLM",
        "seed": 1,
        "run_dir": run_dir,
        "data.train": corpus,
        "data.cache_dir": cache,
        "data.vocab_size": 512,
        "data.max_length": 64,
        "data.batch_tokens": 512,
        "data.num_workers": 2,
        "model.overrides": json.dumps(NETWORK),
        "model.ema": 0.9,
        "trainer.accumulate_grad_batches": ACCUMULATE,
        "trainer.max_steps": steps,
        "trainer.log_every_n_steps": 3,
    }
    if processes > 1:
        arguments |= {"trainer.accelerator": "cpu", "trainer.devices": processes, "trainer.strategy": "ddp"}
    return ["fit", *(word for name, value in arguments.items() for word in (f"--{name}", str(value)))]


def write_corpus(path: Path) -> None:
    """Paragraphs of Python's language reference."""
    topics = pydoc_data.topics.topics
    path.write_text("\n\n".join(topics[name] for name in sorted(topics))[:CORPUS_CHARACTERS], encoding="utf-8")


def deaths(number: int, steps: int, processes: int, seed: int) -> list[Death]:
    """So many deaths, in the order in which a run meets them.

    Args:
        number: How many; the named places first, then random moments.
        steps: Of the whole run.
        processes: Of the run.
        seed: Of the random moments.

    Returns:
        Deaths with growing steps.
    """
    draw = random.Random(seed)
    named = [Death("writing", call=call, nth=nth) for call, nth in WRITING]
    single = [place for place in DURING if place != "writing" and (place != "one process" or processes > 1)]
    named += [Death(place) for place in (*BEFORE, *single, *AFTER)]
    chosen = named[:number] + [Death("at random") for _ in range(number - len(named))]
    before = sorted((d for d in chosen if d.place in BEFORE), key=lambda d: BEFORE.index(d.place))
    first = [d for d in chosen if d.place == "before the first checkpoint"]
    after = [replace(d, step=steps) for d in chosen if d.place in AFTER]
    during = [d for d in chosen if d.place in DURING and d not in first]
    draw.shuffle(during)
    # An epoch ends only now and then: there must be one to come.
    during.sort(key=lambda d: not d.place.startswith("epoch"))
    placed = [
        replace(d, step=2 + int((nth + draw.random()) * (0.85 * steps - 2) / len(during)))
        for nth, d in enumerate(during)
    ]
    timed = [replace(d, delay=draw.uniform(0, SECONDS_AT_RANDOM)) if d.place == "at random" else d for d in placed]
    return [*before, *(replace(d, step=1) for d in first), *timed, *after]


def run(arguments: Sequence[str], log: Path, death: Death | None = None) -> int:
    """Runs the command in a process group of its own, to its end.

    Returns:
        The exit status of the first process.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (variables(death) if death else {})
    command = [sys.executable, str(Path(__file__).with_name("kill_at.py")), *arguments]
    with open(log, "a") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        return child.wait(TIMEOUT_SECONDS)
    finally:
        _end_group(child.pid)


def _end_group(group: int) -> None:
    """Ends what is left of a run: other processes that wait for a dead one, data workers."""
    end = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.05)


def records_differ(left: Path, right: Path) -> str | None:
    """The first line in which two records of losses differ, speeds left out."""

    def rows(path: Path) -> list[list[str]]:
        with open(path, newline="") as file:
            return [row for row in csv.reader(file) if not row[2].startswith("speed/")]

    pairs = zip_longest(rows(left), rows(right))
    return next((f"metrics.csv: {a} and {b}" for a, b in pairs if a != b), None)


def runs_differ(left: Path, right: Path) -> str | None:
    """The first difference between two runs' newest checkpoints, exported weights and records."""
    ours, theirs = (newest_valid(folder / "checkpoints")[0] for folder in (left, right))
    if ours is None or theirs is None or ours.name != theirs.name:
        return f"the newest checkpoints are {ours} and {theirs}"
    load = SafeCheckpointIO().load_checkpoint
    if (left / "model/model.safetensors").read_bytes() != (right / "model/model.safetensors").read_bytes():
        return "model.safetensors"
    return difference(load(ours), load(theirs)) or records_differ(left / "metrics.csv", right / "metrics.csv")


def kill_again_and_again(arguments: list[str], run_dir: Path, plan: Sequence[Death], log: Path) -> list[str]:
    """Starts the run, kills it, resumes it, kills it, and so on, and lets it end at last.

    Returns:
        What went wrong: deaths whose place wasn't reached.
    """
    wrong = []
    print(f"{'':>3} {'place':<36}{'at step':>8}{'goes on from':>14}{'lost':>6}")
    for number, death in enumerate(plan, 1):
        report = run_dir.with_name(f"report-{number}")
        status = run(_again(arguments, run_dir), log, replace(death, report=str(report)))
        found = max(step_files(run_dir / "checkpoints"), default=0)
        if not report.exists():
            wrong.append(f"{death} (at or after step {death.step}) was not reached: status {status}")
            print(f"{number:>3} {death!s:<36} not reached")
            continue
        step = int(report.read_text())
        print(f"{number:>3} {death!s:<36}{step:>8}{found:>14}{max(0, step - found):>6}", flush=True)
    if status := run(_again(arguments, run_dir), log):
        wrong.append(f"the last resume ended with status {status}")
    return wrong


def _again(arguments: list[str], run_dir: Path) -> list[str]:
    return ["fit", "--resume", str(run_dir)] if (run_dir / "config.yaml").exists() else arguments


def main(given: Sequence[str] | None = None) -> int:
    """Runs the proof.

    Returns:
        0 if all is identical.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here, for a look at them")
    own = parser.parse_args(given)
    if not has_strace():
        raise SystemExit("kills.py: deaths at system calls need strace, and may it trace? (apt install strace)")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = own.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return _prove(folder, own)


def _prove(folder: Path, own: argparse.Namespace) -> int:
    corpus, log = folder / "corpus.txt", folder / "log"
    write_corpus(corpus)
    reference, killed = folder / "reference", folder / "killed"
    # Each has a cache of its own, or the second one would have nothing to tokenize.
    first, second = (
        settings(corpus, run_dir, folder / f"cache-{run_dir.name}", own.steps, own.processes)
        for run_dir in (reference, killed)
    )
    if status := run(first, log):
        raise SystemExit(f"kills.py: the run that is left alone ended with status {status}:\n{_tail(log)}")
    begin = time.monotonic()
    wrong = kill_again_and_again(second, killed, deaths(own.kills, own.steps, own.processes, own.seed), log)
    print(f"{own.kills} deaths on {own.processes} process(es), {time.monotonic() - begin:.0f} s")
    if not wrong and (found := runs_differ(reference, killed)):
        wrong.append(f"the runs differ at {found}")
    newest = newest_valid(reference / "checkpoints")[0]
    assert newest is not None
    number, torn = sweep(folder, SafeCheckpointIO().load_checkpoint(newest))
    print(f"{number} deaths at every system call of writing a checkpoint: {len(torn)} damaged")
    for problem in [*wrong, *torn]:
        print(problem)
    print("different" if wrong or torn else "identical")
    return int(bool(wrong or torn))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


if __name__ == "__main__":
    sys.exit(main())
