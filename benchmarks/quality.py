"""Whether what ours fine-tunes is as good as what a peer does: `python quality.py '{"what": "ours", ...}'`.

Both train the classifier of `downstream.py` on, with as many rows, by the same optimizer, at the same rate that falls
linearly; then each network labels the same held-out rows.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import WARM_UP, Job
from downstream import BEST_FLAGS, classifier_folder, network_of, our_rows, train_peer
from peers import ROWS, train_ours
from ptm_lightning.tasks import SequenceClassification

from ptm_lightning.data.noise import Floats

LEARNING_STEPS = 50
"""For each step of the job."""
RATE, BETAS, EPS = 5e-4, (0.9, 0.999), 1e-8


def ours(job: Job) -> dict[str, float]:
    """Our fine-tuning."""
    task = SequenceClassification(
        backbone=str(classifier_folder(job)), learning_rate=RATE, warmup=0.0, weight_decay=0.0, betas=BETAS, eps=EPS
    )
    clock = train_ours(_long(job), task, our_rows(job))
    return _judge(job, task.network) | {"steps": len(clock.ended)}


def grouped(job: Job) -> dict[str, float]:
    """transformers.Trainer's with its best flags; the rest of the recipe is its default."""
    network = network_of(job).train()
    train_peer(_long(job), network, **BEST_FLAGS, learning_rate=RATE)
    return _judge(job, network) | {"steps": WARM_UP + _long(job).steps}


def _long(job: Job) -> Job:
    return replace(job, steps=LEARNING_STEPS * job.steps)


@torch.inference_mode()
def _judge(job: Job, network: Any) -> dict[str, float]:
    """Labels the held-out rows, and writes down which were right."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier_folder(job))
    rows, right = held_out(job), []
    network.eval()
    for begin in range(0, len(rows), ROWS):
        texts, labels = zip(*rows[begin : begin + ROWS], strict=True)
        inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=job.max_length, return_tensors="pt")
        right += (network(**inputs).logits.argmax(-1) == torch.tensor(labels)).tolist()
    _right_file(job, job.what).write_text(json.dumps(right))
    return {"accuracy": sum(right) / len(right), "rows": len(right)}


def held_out(job: Job) -> list[tuple[str, int]]:
    """Texts and labels that nothing was trained on."""
    rows: list[tuple[str, int]] = json.loads((Path(job.folder) / "held_out.json").read_text())
    return rows


def right_or_wrong(job: Job, what: str) -> Floats:
    """(n,) 1 for each held-out row that a network labels right, else 0."""
    return np.array(json.loads(_right_file(job, what).read_text()), dtype=float)


def _right_file(job: Job, what: str) -> Path:
    return Path(job.folder) / f"{what}_right.json"


WORK: dict[str, Callable[[Job], dict[str, float]]] = {"ours": ours, "grouped": grouped}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
