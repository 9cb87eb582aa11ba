"""Measurements, each a process of its own, so that no setting leaks into another; ours and the peers take turns."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from clock import Job
from ratios import Numbers

HERE = Path(__file__).parent
TOLERANCES = {"fp32": {"loss": 1e-5, "gradient": 1e-4}, "bf16": {"loss": 2e-2, "gradient": 5e-2}}
"""What loss (absolute) and gradient (relative) may differ by; in bf16 both sides round, in different places."""


def work(file: str, job: Job) -> Numbers:
    """Runs a job of `peers.py`, `limits.py`, `objectives.py` or `downstream.py` in a process of its own.

    Raises:
        SystemExit: It failed; with the end of what it said.
    """
    command = [sys.executable, str(HERE / file), json.dumps(asdict(job))]
    environment = os.environ | {"PTM_CACHE": str(Path(job.folder) / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{file}: {job.what} failed:\n{done.stderr[-3000:]}")
    result: Numbers = json.loads(done.stdout.splitlines()[-1])
    return result


def check_agreement(job: Job, file: str = "peers.py") -> Numbers:
    """Loss and gradient against the peers'.

    Raises:
        SystemExit: They differ.
    """
    found, allowed = work(file, replace(job, what="agree")), TOLERANCES[job.precision]
    text = f"loss differs by {found['loss']:.1e}, gradient by {found['gradient']:.1e} of its norm"
    if any(not found[name] <= allowed[name] for name in allowed):
        raise SystemExit(f"bench.py: ours and the peers don't agree in {job.precision}, so nothing is compared: {text}")
    print(f"{job.preset or 'mlm'}, {job.precision}: ours and the peers agree: {text}", flush=True)
    return found


def measure(job: Job, pairs: int, file: str, peers: Iterable[str], ours: str = "ours") -> dict[str, list[Numbers]]:
    """Ours and the peers in turns.

    Returns:
        By name, one measurement for each turn.
    """
    turns: dict[str, list[Numbers]] = {name: [] for name in (ours, *peers)}
    for _ in range(pairs):
        for name, found in turns.items():
            found.append(work(file, replace(job, what=name)))
    return turns
