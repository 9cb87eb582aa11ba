"""What a run ends with on the screen: what was learned, an example, where the model lies, what to do next."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.task import Task

EXAMPLES = 3
SHOWN = 400
"""Characters of an example's column."""


def print_summary(folder: Path, task: Task, data: TaskData) -> None:
    """The last screen of a finished run."""
    metrics = read_metrics(folder)
    shown = {"val/loss", *(f"val/{name}" for name in task.headline)}
    print()
    for name in sorted(name for name in metrics if name.startswith("val/") and (name in shown or not task.headline)):
        steps = metrics[name]
        (first, begin), (last, end) = min(steps.items()), max(steps.items())
        print(f"{name:<28}{begin:>10.4f}  at step {first:<8}{end:>10.4f}  at step {last}")
    for part, member in data.members().items():
        name = f"unigram loss, {part}" if part else "unigram model loss"
        if unigram := member.corpus.provenance.get("unigram_loss"):
            print(f"{name:<28}{unigram:>10.4f}")
    for line in gains(metrics):
        print(line)
    if speeds := metrics.get("speed/tokens_per_second"):
        print(f"{'tokens per second':<28}{sum(speeds.values()) / len(speeds):>10,.0f}")
    batch = next(iter(data.val_dataloader()))
    for example in task.examples(batch)[:EXAMPLES]:
        print()
        for column, text in example.items():
            print(f"  {column:<10}{_one_line(text)}")
    print(f"\nmodel:   {folder / 'model'}  (a transformers folder)")
    if metrics:
        print(f"metrics: {folder / 'metrics.csv'}")
    print(f"next:    {next_command(folder, task)}")


def gains(metrics: Mapping[str, Mapping[int, float]]) -> list[str]:
    """A table of what a mixture gained and forgot in each part; none for other tasks.

    The start is the untouched model, which `Baseline` has measured if the vocabulary was extended; else the first
    validation.
    """
    found = (re.fullmatch(r"val/(.+)/(\w*bits_per_byte)", name) for name in metrics)
    parts = {match[1]: match for match in found if match}
    lines = [f"\n{'bits per byte':<28}{'start':>10}{'end':>10}{'gained':>10}{'forgotten':>12}"] if parts else []
    for part, match in parts.items():
        steps = metrics[match[0]]
        untouched = metrics.get(f"start/{part}/{match[2]}", steps)
        begin, end = untouched[min(untouched)], steps[max(steps)]
        gained = f"{begin - end:>10.4f}{'':>12}" if end <= begin else f"{'':>10}{end - begin:>12.4f}"
        lines.append(f"{part:<28}{begin:>10.4f}{end:>10.4f}{gained}".rstrip())
    return lines


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]} ..."


def next_command(folder: Path, task: Task) -> str:
    """A command that does something with the model."""
    text = task.example_text()
    if text is None:
        return f"python -m ptm_lightning export --run_dir {folder} --output my-model"
    return f'python -m ptm_lightning predict --run_dir {folder} --text "{text}"'


def how_to_resume(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"saved; go on with: python -m ptm_lightning fit --resume {folder}"


def read_metrics(folder: Path) -> dict[str, dict[int, float]]:
    """The values of each metric by optimizer step, from the run's record."""
    metrics: dict[str, dict[int, float]] = {}
    if not (folder / "metrics.csv").exists():  # another logger, or none, was asked for
        return metrics
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            metrics.setdefault(row["metric"], {})[int(row["step"])] = float(row["value"])
    return metrics


def print_metrics(metrics: Mapping[str, float]) -> None:
    """One line for each metric."""
    for name, value in sorted(metrics.items()):
        print(f"{name:<28}{value:>12.4f}")
