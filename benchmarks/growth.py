"""How the speed of ours changes with the size of things; one of them is `python growth.py '{"what": "grown", ...}'`."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from clock import Job
from peers import train_ours
from ptm_lightning.tasks import MaskedLM, MaskedLMData

GROWN: dict[str, tuple[Any, ...]] = {
    "max_length": (32, 64, 256, 512),
    "size": ("tiny", "small"),
    "vocab_size": (2_048, 8_192),
    "corpus": (0.1,),
    "num_workers": (1, 2),
    "devices": (2,),
}
"""What is changed, one at a time, and to what."""


def grown(job: Job) -> dict[str, float]:
    """Masked language modelling of that size, from scratch."""
    task = MaskedLM(size=job.size)
    data = MaskedLMData(
        train=job.text,
        tokenizer="train",
        vocab_size=job.vocab_size,
        max_length=job.max_length,
        batch_tokens=job.batch_tokens,
        num_workers=job.num_workers,
        validation_share=1 - job.corpus or 0.005,
        cache_dir=job.cache,
    )
    clock = train_ours(job, task, data)
    assert task.network is not None
    found = clock.result(task.network)
    return found | {"tokens_per_second": found["tokens_per_second"] * job.devices}


def growth(job: Job, pairs: int, work: Callable[[str, Job], dict[str, float]]) -> dict[str, Any]:
    """Useful tokens per second, each over those of the job as it is.

    Args:
        job: The work.
        pairs: How many turns.
        work: Runs a job of a file.
    """
    job = replace(job, what="grown")
    changes = [(name, value) for name, values in GROWN.items() for value in values]
    jobs = [job, *(replace(job, **{name: value}) for name, value in changes)]
    turns = [[work("growth.py", each)["tokens_per_second"] for each in jobs] for _ in range(pairs)]
    return {
        f"{name} {value}": [turn[number] / turn[0] for turn in turns]
        for number, (name, value) in enumerate(changes, start=1)
    }


if __name__ == "__main__":
    print(json.dumps(grown(Job(**json.loads(sys.argv[1])))))
