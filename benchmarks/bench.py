"""Training beside the peers, on the same network, weights, text and precision, as ratios.

    python benchmarks/bench.py                                     on the text that Python carries
    python benchmarks/bench.py --text corpus.jsonl.gz --json bench.json --picture bench.png
    python benchmarks/bench.py --suite objectives tasks            some of the suites below
    python benchmarks/bench.py --quick                             shows that it works; its numbers mean nothing

`training` is masked language modelling beside all peers, `levers` the same with one lever of ours off at a time, and
beside a Trainer that is given our matrix products, `costs` what ours costs beyond the network, `growth` how the speed
of ours changes with length, size, vocabulary, corpus, workers and processes, `objectives` the presets at size tiny:
data modules against networks, the trainer's loop against a bare one, and causal and permutation language modelling
beside transformers.Trainer with its own collators. `tasks` fine-tunes a classifier beside transformers.Trainer, labels
texts beside its pipeline, and summarizes beside generate on batches in the data's order; its rows are built in, or
given by --labelled and --summaries.

Speed is useful tokens per second: padding isn't counted, nor are the first steps. Each measurement is a process of its
own, so that no setting leaks into another; ours and the peers take turns, and a ratio is that of one turn. Nothing is
compared before loss and gradient agree on one batch with the same weights and no dropout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clock import Job
from downstream import same_answers
from growth import growth
from levers import ALL_ON, LEVERS, PEER
from picture import draw
from ratios import Numbers, ratios, spread
from startup import starts

HERE = Path(__file__).parent
PEERS = {"trainer": "transformers.Trainer", "lightning": "plain Lightning"}
LAYOUTS = {"rows": "ragged rows", "blocks": "blocks"}
TOLERANCES = {"fp32": {"loss": 1e-5, "gradient": 1e-4}, "bf16": {"loss": 2e-2, "gradient": 5e-2}}
"""What loss (absolute) and gradient (relative) may differ by; in bf16 both sides round, in different places."""
GOALS = {("rows", "fp32"): 9.0, ("rows", "bf16"): 6.0, ("blocks", "fp32"): 5.5, ("blocks", "bf16"): 3.5}
"""What ours is to reach against `transformers.Trainer`."""
PEER_GOAL = 4.0
"""The same against one that is given our matrix products."""
EFFICIENCY_GOALS = {"fp32": 0.75, "bf16": 0.55}
"""FLOP/s at size small without dropout, over those of the best matrix product."""
PRESETS = ("bert", "roberta", "albert", "gpt", "xlnet", "t5", "bart", "electra")
PEER_PRESETS = {"gpt": {"fp32": 2.0, "bf16": 1.5}, "xlnet": {"fp32": 3.0, "bf16": 3.0}}
"""Those whose peer is no masked language modelling, and what ours is to reach against it."""
SUITES = ("training", "levers", "costs", "growth", "objectives", "tasks")
FINE_TUNING = {"trainer": ("padded to the longest allowed", 6.0), "grouped": ("its best flags", 2.0)}
"""What the peers of fine-tuning are called, and what ours is to reach against them in fp32."""
ANSWERING = {
    ("predict", "pipeline"): ("labels, over pipeline", 4.0),
    ("answer", "generate"): ("summaries, over generate", 2.0),
}
"""The same for answering: ours and the peer."""
LOADER_GOAL = 10
"""Times as fast as the network trains on batches, these are to be prepared."""
BUSY = 0.3
"""Load, for each core, above which ratios are noise."""
LOOP_TOKENS = 512
"""Tokens of a batch where the loop's own time is looked for."""


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


def measure(
    job: Job, pairs: int, file: str = "peers.py", peers: Iterable[str] = PEERS, ours: str = "ours"
) -> dict[str, list[Numbers]]:
    """Ours and the peers in turns.

    Returns:
        By name, one measurement for each turn.
    """
    turns: dict[str, list[Numbers]] = {name: [] for name in (ours, *peers)}
    for _ in range(pairs):
        for name, found in turns.items():
            found.append(work(file, replace(job, what=name)))
    return turns


def print_comparison(job: Job, turns: dict[str, list[Numbers]], best: float) -> None:
    """The table of one layout in one precision."""
    print(f"\n{LAYOUTS[job.layout]}, {job.precision}: ours over the peer, useful tokens per second")
    for peer, name in PEERS.items():
        goal = GOALS.get((job.layout, job.precision)) if peer == "trainer" else None
        print(f"  {name:<40}{spread(ratios(turns, peer))}" + (f"   goal {goal:g}" if goal else ""))
    print(f"  {'':<40}{'ours':>10}" + "".join(f"{name:>22}" for name in PEERS.values()))
    for key, title in (
        ("padding", "share of padding"),
        ("projected", "share of places projected"),
        ("waiting", "share of time waiting for data"),
        ("flops_per_second", "FLOP/s over the best matrix product"),
        ("faults", "thousands of page faults in a step"),
        ("peak_memory", "most memory of the process, in GB"),
    ):
        scale = {"flops_per_second": best, "faults": 1e3, "peak_memory": 1e9}.get(key, 1.0)
        values = [statistics.median(found[key] for found in turns[name]) / scale for name in turns]
        print(f"  {title:<40}{values[0]:>10.3f}" + "".join(f"{value:>22.3f}" for value in values[1:]), flush=True)
    print(f"  {'memory over that of Trainer, goal 0.6':<40}{spread(ratios(turns, 'trainer', unit='peak_memory'))}")


def compare(job: Job, precisions: Sequence[str], pairs: int) -> dict[str, Any]:
    """Training beside the peers."""
    results: dict[str, Any] = {}
    for precision in precisions:
        agreement = check_agreement(replace(job, precision=precision))
        best = work("limits.py", replace(job, what="matmul", precision=precision))["flops_per_second"]
        results[precision] = {"agreement": agreement, "best_matmul": best}
        for layout in ("rows", "blocks"):
            this = replace(job, precision=precision, layout=layout)
            turns = measure(this, pairs)
            print_comparison(this, turns, best)
            results[precision][layout] = {"turns": turns, "ratios": {peer: ratios(turns, peer) for peer in PEERS}}
    return results


def levers(job: Job, precisions: Sequence[str], pairs: int) -> dict[str, Any]:
    """What each lever brings, on ragged rows."""
    results: dict[str, Any] = {}
    for precision in precisions:
        off = [name for name in LEVERS if name != ALL_ON]
        turns = measure(replace(job, precision=precision), pairs, "levers.py", [*off, PEER], ALL_ON)
        brought = {name: ratios(turns, name, ALL_ON) for name in (*off, PEER)}
        print(f"\nragged rows, {precision}: ours over ours without, useful tokens per second")
        for name in off:
            print(f"  {name:<40}{spread(brought[name])}")
        print(f"  {'over ' + PEER:<40}{spread(brought[PEER])}   goal {PEER_GOAL:g}", flush=True)
        results[precision] = {"turns": turns, "ratios": brought}
    return results


def costs(job: Job, pairs: int) -> dict[str, Any]:
    """What ours costs beyond the network."""
    small = replace(job, what="loop", batch_tokens=LOOP_TOKENS, steps=10 * job.steps)
    large = replace(job, what="loop")
    loops = {size: [work("limits.py", each) for _ in range(pairs)] for size, each in (("s", small), ("l", large))}
    stores = [work("limits.py", replace(job, what="tokenizing"))["store"] for _ in range(pairs)]
    once, tenfold = (work("limits.py", replace(job, what=f"memory {times}")) for times in ("1x", "10x"))
    results = {
        "trainer's loop over a bare one, tiny, batches of 512": [found["overhead"] for found in loops["s"]],
        "the same in ms a step, goal 0.4": [1e3 * found["overhead_seconds"] for found in loops["s"]],
        "trainer's loop over a bare one, tiny": [found["overhead"] for found in loops["l"]],
        "batches prepared over batches trained on, tiny": [found["loader"] for found in loops["l"]],
        "building a token store over encode_batch_fast": stores,
    }
    for precision, goal in EFFICIENCY_GOALS.items():
        found = [work("limits.py", replace(job, what="efficiency", precision=precision)) for _ in range(pairs)]
        results[f"FLOP/s over the best product, small, {precision}, goal {goal:g}"] = [e["efficiency"] for e in found]
    turns = starts(job, pairs)
    results["to the first step over imports alone, goal 1.2"] = ratios(turns, "imports", "first step", "seconds")
    results["the same in time of the processor"] = ratios(turns, "imports", "first step", "cpu_seconds")
    results["fit --help over imports alone"] = ratios(turns, "imports", "fit --help", "seconds")
    results["--help, in seconds, goal 0.25"] = [found["seconds"] for found in turns["--help"]]
    results["--version, in seconds, goal 0.25"] = [found["seconds"] for found in turns["--version"]]
    print()
    for title, values in results.items():
        print(f"  {title:<56}{spread(values)}")
    for doing in once:
        title = f"anonymous memory {doing}, 10 times the corpus over 1"
        print(f"  {title:<56}{tenfold[doing] / once[doing]:.2f}  ({once[doing]:.0f} and {tenfold[doing]:.0f} MB)")
    return results | {"memory": {"1x": once, "10x": tenfold}, "starts": turns}


def objectives(job: Job, precisions: Sequence[str], pairs: int) -> dict[str, Any]:
    """Each preset's objective at size tiny."""
    results: dict[str, Any] = {"loops": {}, "peers": {}}
    print(f"\n{'':<10}{f'batches prepared over trained on, goal {LOADER_GOAL}':<44}trainer's loop over a bare one")
    for preset in PRESETS:
        turns = [work("objectives.py", replace(job, what="loop", preset=preset)) for _ in range(pairs)]
        results["loops"][preset] = turns
        loader, overhead = (spread([found[key] for found in turns]) for key in ("loader", "overhead"))
        print(f"{preset:<10}{loader:<44}{overhead}", flush=True)
    for preset in PEER_PRESETS:
        work("objectives.py", replace(job, what="prepare", preset=preset))
        for precision in precisions:
            this = replace(job, preset=preset, precision=precision)
            check_agreement(this, "objectives.py")
            beside = measure(this, pairs, "objectives.py", ["trainer"])
            faster = ratios(beside, "trainer")
            print(
                f"{'':<10}ours over {PEERS['trainer']}, useful tokens per second: {spread(faster)}   "
                f"goal {PEER_PRESETS[preset][precision]:g}",
                flush=True,
            )
            results["peers"][f"{preset}, {precision}"] = {"turns": beside, "ratios": faster}
    return results


def tasks(job: Job, summaries: list[str], pairs: int) -> dict[str, Any]:
    """Fine-tuning in fp32, predicting and answering."""
    results: dict[str, Any] = {"classifier": work("downstream.py", job)}
    check_agreement(replace(job, preset="classification"), "downstream.py")
    turns = measure(job, pairs, "downstream.py", FINE_TUNING)
    results["training"] = {"turns": turns, "ratios": {peer: ratios(turns, peer) for peer in FINE_TUNING}}
    print("\nfine-tuning a classifier, fp32: ours over transformers.Trainer, useful tokens per second")
    for peer, (name, goal) in FINE_TUNING.items():
        print(f"  {name:<40}{spread(ratios(turns, peer))}   goal {goal:g}", flush=True)
    results["summarizer"] = work("downstream.py", replace(job, what="prepare_answers", text=summaries))
    print("\nanswers per second, loading the network included")
    for (ours, peer), (name, goal) in ANSWERING.items():
        turns = measure(job, pairs, "downstream.py", [peer], ours)
        faster = ratios(turns, peer, ours, "answers_per_second")
        same = same_answers(Path(job.folder), ours, peer)
        print(f"  {name:<40}{spread(faster)}   goal {goal:g}; {same:.1%} of the answers are the same", flush=True)
        results[ours] = {"turns": turns, "ratios": faster, "same": same}
    return results


def main(given: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=["builtin:python"], metavar="PATH")
    parser.add_argument("--labelled", nargs="+", default=["builtin:modules"], metavar="PATH", help="text and label")
    parser.add_argument("--summaries", nargs="+", default=["builtin:summaries"], metavar="PATH")
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=SUITES, help="default: all")
    parser.add_argument("--precision", nargs="+", choices=TOLERANCES, help="default: both; with --quick, fp32")
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
        pairs, precisions = own.pairs, own.precision or list(TOLERANCES)
        if own.quick:
            job = replace(job, steps=2, max_length=64, vocab_size=2000, size="tiny", text_bytes=200_000)
            pairs, precisions = 1, own.precision or ["fp32"]
        results: dict[str, Any] = {"job": asdict(job)}
        if {"training", "levers", "costs", "growth"} & set(own.suite):
            corpus = results["corpus"] = work("peers.py", job)
            print(f"BERT {job.size}, vocabulary {corpus['vocabulary']:,}, {corpus['tokens'] / 1e6:.1f} million tokens")
        if "training" in own.suite:
            results["training"] = compare(job, precisions, pairs)
        if "levers" in own.suite:
            results["levers"] = levers(job, precisions, pairs)
        if "costs" in own.suite:
            results["costs"] = costs(job, pairs)
        if "growth" in own.suite:
            results["growth"] = {"ratios": growth(job, pairs, work)}
            print("\nours, useful tokens per second over those above")
            for name, found in results["growth"]["ratios"].items():
                print(f"  {name:<40}{spread(found)}", flush=True)
        if "objectives" in own.suite:
            results["objectives"] = objectives(replace(job, size="tiny"), precisions, pairs)
        if "tasks" in own.suite:
            results["tasks"] = tasks(replace(job, text=own.labelled), own.summaries, pairs)
    if own.json:
        own.json.write_text(json.dumps(results, indent=1) + "\n")
    if own.picture:
        draw(results, own.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
