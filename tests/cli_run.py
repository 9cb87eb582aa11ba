"""Fits a tiny network by the command line, and reads what the run has recorded."""

import csv
import json
from pathlib import Path

from ptm_lightning.__main__ import main
from ptm_lightning.testing_case import tiny

LAYOUT = ["--data.max_length=32", "--data.batch_tokens=512", "--data.validation_share=0.1", "--trainer.accelerator=cpu"]
DATA = ["--data.vocab_size=600", *LAYOUT]
SIZE = [f"--model.overrides={json.dumps(tiny('bert'))}", *DATA]


def fit(corpus: Path, *more: str) -> int:
    return main(["fit", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE, *more])


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if not row["metric"].startswith("speed/")]
