"""Runs a named experiment by the real command line and adds what came out to a results file.

    python benchmarks/evidence.py mlm --text corpus.train.jsonl.gz --results evidence.jsonl

What stands behind the known flags goes to `fit`, such as --model.size tiny. Interrupted, by Ctrl-C or otherwise, the
same command goes on with `fit --resume`; the results get one line when the run is finished.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptm_lightning.checkpoint import KEY, load_checkpoint, newest_valid
from ptm_lightning.errors import UserError
from ptm_lightning.files import append
from ptm_lightning.plugins import find_class, load_plugins
from ptm_lightning.run import environment, read_config, read_state
from ptm_lightning.summary import read_metrics
from ptm_lightning.task import Task

SENTENCES = 10
LENGTHS = range(12, 41)
"""Tokens of a document that is shown."""


@dataclass(frozen=True)
class Experiment:
    """One line of the table."""

    arguments: tuple[str, ...]
    """Of `fit`, without the text."""
    questions: Callable[[Path], list[str]]
    """What the finished run, by its folder, is asked."""


def masked_sentences(run_dir: Path) -> list[str]:
    """Short validation documents, evenly spaced, each with a whole word masked.

    Args:
        run_dir: A finished run whose validation documents were held out.

    Returns:
        Texts for `predict`.
    """
    config = read_config(run_dir)
    task = find_class(config["model"].pop("class_path"), Task, "model")
    settings = {name: value for name, value in config["data"].items() if name != "class_path"}
    data = task.data_class(**settings)
    data.setup("fit")
    store, tokenizer = data.corpus.validation, data.hf_tokenizer
    lengths = np.diff(store.offsets)
    (fit,) = np.nonzero((lengths >= LENGTHS.start) & (lengths < LENGTHS.stop))
    texts = []
    for document in fit[:: max(1, len(fit) // (4 * SENTENCES))]:
        ids = store.tokens[store.offsets[document] : store.offsets[document + 1]].tolist()
        pieces = tokenizer.convert_ids_to_tokens(ids)
        whole = [
            place
            for place, (piece, following) in enumerate(zip(pieces, [*pieces[1:], "##"], strict=True))
            if piece.isalpha() and len(piece) > 3 and not following.startswith("##")
        ]
        if whole:
            ids[whole[len(whole) // 2]] = tokenizer.mask_token_id
            texts.append(str(tokenizer.decode(ids)))
    return texts[:: max(1, len(texts) // SENTENCES)][:SENTENCES]


EXPERIMENTS = {
    "mlm": Experiment(("--config", "mlm", "--model.size", "mini", "--max_tokens", "20e6"), masked_sentences),
}


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
    config, metrics = read_config(run_dir), read_metrics(run_dir)
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
        "last": {metric: steps[max(steps)] for metric, steps in metrics.items() if metric.startswith("val/")},
        "answers": answers(run_dir, EXPERIMENTS[name].questions(run_dir)),
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


def main(given: Sequence[str] | None = None) -> int:
    """Runs one experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--text", nargs="+", default=["builtin:python"], metavar="PATH")
    parser.add_argument("--results", type=Path, default=Path("runs/evidence.jsonl"), metavar="FILE")
    parser.add_argument("--run_dir", type=Path, metavar="DIR", help="default: runs/evidence/NAME")
    own, more = parser.parse_known_args(given)
    run_dir = own.run_dir or Path("runs/evidence") / own.name
    load_plugins()
    command = ["fit", *EXPERIMENTS[own.name].arguments, "--data.train", *own.text, *more]
    train(command, run_dir)
    found = result(own.name, command, run_dir)
    own.results.parent.mkdir(parents=True, exist_ok=True)
    append(own.results, json.dumps(found, ensure_ascii=False) + "\n")
    print(f"\n{'tokens':>12}{'val/loss':>10}   unigram model: {found['unigram_loss']:.3f}")
    for tokens, loss in found["curve"]:
        print(f"{tokens:>12,}{loss:>10.3f}")
    for answer in found["answers"]:
        guesses = ", ".join(guess["token"] for guess in answer["guesses"][0])
        print(f"\n  {answer['text']}\n  {guesses}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
