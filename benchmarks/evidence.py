"""Runs a named experiment by the real command line and adds what came out to a results file.

    python benchmarks/evidence.py bert --text corpus.train.jsonl.gz --results evidence.jsonl
    python benchmarks/evidence.py table --results evidence.jsonl

What stands behind the known flags goes to `fit`, such as --model.size mini. Interrupted, by Ctrl-C or otherwise, the
same command goes on with `fit --resume`; the results get one line when the run is finished. `table` prints the newest
of each experiment: every validation metric at start and end, beside what a model has that learned the least.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import EXPERIMENTS, baselines_of, data_of, questions

from ptm_lightning.checkpoint import KEY, load_checkpoint, newest_valid
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.environment import environment
from ptm_lightning.errors import UserError
from ptm_lightning.files import append
from ptm_lightning.log import set_up_logging
from ptm_lightning.plugins import load_plugins
from ptm_lightning.run import read_config, read_state
from ptm_lightning.summary import read_metrics


def ptm(*arguments: str) -> None:
    """Runs a command as a user does.

    Raises:
        SystemExit: It failed or was interrupted, with its status.
    """
    process = subprocess.Popen([sys.executable, "-m", "ptm_lightning", *arguments])
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            continue  # the terminal has told the command too: it saves and ends
    if status:
        raise SystemExit(status)


def train(command: Sequence[str], run_dir: Path) -> None:
    """Trains, or goes on, or does nothing if the run is finished."""
    state = (read_state(run_dir) or {}).get("state")
    if state is None:
        ptm(*command, "--run_dir", str(run_dir))
    elif state != "finished":
        ptm("fit", "--resume", str(run_dir))


def result(name: str, command: Sequence[str], run_dir: Path) -> dict[str, Any]:
    """What a finished run has to show."""
    newest = newest_valid(run_dir / "checkpoints")[0]
    if newest is None:
        raise UserError(f"{run_dir}: no checkpoint; remove the folder to start over")
    config, metrics, data = read_config(run_dir), read_metrics(run_dir), data_of(run_dir)
    record = load_checkpoint(newest)[KEY]
    speeds = metrics.get("speed/tokens_per_second", {})
    return {
        "experiment": name,
        "command": ["python", "-m", "ptm_lightning", *command],
        "config": {key: value for key, value in config.items() if key != "environment"},
        "versions": config.get("environment") or environment(),
        "tokens": record["tokens_seen"],
        "tokens_per_second": sum(speeds.values()) / len(speeds) if speeds else None,
        "unigram_loss": record["link"]["provenance"]["unigram_loss"],
        "curve": curve(run_dir, "val/loss"),
        "metrics": beside_baselines(metrics, data),
        "answers": answers(run_dir, questions(name, data)),
    }


def beside_baselines(metrics: dict[str, dict[int, float]], data: TaskData) -> dict[str, dict[str, float | None]]:
    """Each validation metric: "start", "end" and "baseline", None where there is none."""
    found = {name.removeprefix("val/"): steps for name, steps in metrics.items() if name.startswith("val/")}
    known = baselines_of(data, {name: steps[max(steps)] for name, steps in found.items()})
    return {
        name: {"start": steps[min(steps)], "end": steps[max(steps)], "baseline": known.get(name)}
        for name, steps in sorted(found.items())
    }


def curve(run_dir: Path, metric: str) -> list[tuple[int, float]]:
    """(tokens seen, value) of each validation."""
    lines = (run_dir / "metrics.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    return [(int(tokens or 0), float(value)) for _, tokens, name, value in rows if name == metric]


def answers(run_dir: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What the run's best model predicts for some texts."""
    if not texts:
        return []
    output = run_dir / "answers.jsonl"
    flags = [f"--text={text}" for text in texts]
    ptm("predict", "--run_dir", str(run_dir), "--output", str(output), *flags)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def print_result(found: dict[str, Any]) -> None:
    """The metrics of one experiment, and what its model answers."""
    print(f"\n{found['experiment']}: {found['tokens']:,} tokens")
    print_table([found])
    for answer in found["answers"]:
        guesses = ", ".join(guess["token"] for guess in answer.get("guesses", [[]])[0])
        print(f"\n  {answer['text']}\n  {guesses or answer['prediction']}")


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """One line for each metric of each experiment."""
    print(f"{'':<10}{'':<24}{'start':>10}{'end':>10}{'baseline':>10}")
    for found in results:
        for metric, values in found["metrics"].items():
            cells = (f"{'-' if value is None else f'{value:.4f}':>10}" for value in values.values())
            print(f"{found['experiment']:<10}{metric:<24}{''.join(cells)}")


def parser_of(description: str | None, names: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of a script that runs named experiments, or prints the table of their results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=[*names, "table"])
    parser.add_argument("--results", type=Path, default=Path("runs/evidence.jsonl"), metavar="FILE")
    parser.add_argument("--run_dir", type=Path, metavar="DIR", help="default: runs/evidence/NAME")
    return parser


def run_dir_of(own: argparse.Namespace) -> Path:
    """Where an experiment's run lies."""
    return own.run_dir or Path("runs/evidence") / str(own.name)


def keep(results: Path, found: dict[str, Any]) -> None:
    """Adds what came out of an experiment to the results."""
    results.parent.mkdir(parents=True, exist_ok=True)
    append(results, json.dumps(found, ensure_ascii=False) + "\n")


def print_newest(results: Path, names: Iterable[str]) -> None:
    """The table of the newest result of each experiment."""
    newest = {found["experiment"]: found for found in map(json.loads, results.read_text().splitlines())}
    print_table([newest[name] for name in names if name in newest])


def main(given: Sequence[str] | None = None) -> int:
    """Runs one experiment, or prints the results of all."""
    parser = parser_of(__doc__, [*EXPERIMENTS])
    parser.add_argument("--text", nargs="+", default=["builtin:python"], metavar="PATH")
    own, more = parser.parse_known_args(given)
    if own.name == "table":
        print_newest(own.results, EXPERIMENTS)
        return 0
    run_dir = run_dir_of(own)
    set_up_logging()
    load_plugins()
    command = ["fit", *EXPERIMENTS[own.name].arguments, "--data.train", *own.text, *more]
    train(command, run_dir)
    found = result(own.name, command, run_dir)
    keep(own.results, found)
    print_result(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
