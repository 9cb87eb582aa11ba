"""Training beside the peers, on the same network, weights, text and precision, as ratios.

    python benchmarks/bench.py                                     on the text that Python carries
    python benchmarks/bench.py --text corpus.jsonl.gz --json bench.json --picture bench.png
    python benchmarks/bench.py --suite objectives tasks            some of the suites below
    python benchmarks/bench.py --quick                             shows that it works; its numbers mean nothing

`training` is masked language modelling beside all peers, `levers` the same with one lever of ours off at a time, and
beside a Trainer that is given our matrix products, `costs` what ours costs beyond the network, `growth` how the speed
of ours changes with length, size, vocabulary, corpus, workers and processes, `objectives` the presets at size tiny:
data modules against networks, the trainer's loop against a bare one, and causal and permutation language modelling
beside transformers.Trainer with its own collators. `tasks` fine-tunes a classifier beside transformers.Trainer, and
says what both have learned in the end, labels texts beside its pipeline, and summarizes beside generate on batches in
the data's order; its rows are built in, or given by --labelled and --summaries.

Speed is useful tokens per second: padding isn't counted, nor are the first steps. Each measurement is a process of its
own, so that no setting leaks into another; ours and the peers take turns, and a ratio is that of one turn. Nothing is
compared before loss and gradient agree on one batch with the same weights and no dropout.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import measuring
import suites
from clock import Job
from growth import growth
from picture import draw
from ratios import spread

SUITES = ("training", "levers", "costs", "growth", "objectives", "tasks")
BUSY = 0.3
"""Load, for each core, above which ratios are noise."""


def main(given: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=["builtin:python"], metavar="PATH")
    parser.add_argument("--labelled", nargs="+", default=["builtin:modules"], metavar="PATH", help="text and label")
    parser.add_argument("--summaries", nargs="+", default=["builtin:summaries"], metavar="PATH")
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=SUITES, help="default: all")
    parser.add_argument(
        "--precision", nargs="+", choices=measuring.TOLERANCES, help="default: both; with --quick, fp32"
    )
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a measurement")
    parser.add_argument("--pairs", type=int, default=5, help="turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the ratios there, as a PNG")
    parser.add_argument("--quick", action="store_true", help="a tiny network, one turn")
    own = parser.parse_args(given)
    if own.picture and set(own.suite) == {"costs"}:
        parser.error("--picture: costs have no peer, so no ratios to draw; add another --suite")
    if (load := os.getloadavg()[0] / (os.cpu_count() or 1)) > BUSY and not own.quick:
        print(f"the machine is busy (load {load:.1f} for each core): the ratios are noise")
    with tempfile.TemporaryDirectory() as folder:
        job = Job("prepare", text=own.text, folder=folder, steps=own.steps)
        pairs, precisions = own.pairs, own.precision or list(measuring.TOLERANCES)
        if own.quick:
            job = replace(job, steps=2, max_length=64, vocab_size=2000, size="tiny", text_bytes=200_000)
            pairs, precisions = 1, own.precision or ["fp32"]
        results: dict[str, Any] = {"job": asdict(job)}
        if {"training", "levers", "costs", "growth"} & set(own.suite):
            corpus = results["corpus"] = measuring.work("peers.py", job)
            print(f"BERT {job.size}, vocabulary {corpus['vocabulary']:,}, {corpus['tokens'] / 1e6:.1f} million tokens")
        if "training" in own.suite:
            results["training"] = suites.compare(job, precisions, pairs)
        if "levers" in own.suite:
            results["levers"] = suites.levers(job, precisions, pairs)
        if "costs" in own.suite:
            results["costs"] = suites.costs(job, pairs)
        if "growth" in own.suite:
            results["growth"] = {"ratios": growth(job, pairs, measuring.work)}
            print("\nours, useful tokens per second over those above")
            for name, found in results["growth"]["ratios"].items():
                print(f"  {name:<40}{spread(found)}", flush=True)
        if "objectives" in own.suite:
            results["objectives"] = suites.objectives(replace(job, size="tiny"), precisions, pairs)
        if "tasks" in own.suite:
            results["tasks"] = suites.tasks(replace(job, text=own.labelled), own.summaries, pairs)
    if own.json:
        own.json.write_text(json.dumps(results, indent=1) + "\n")
    if own.picture:
        draw(results, own.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
