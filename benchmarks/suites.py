"""The suites of `bench.py`: what is measured, what it is printed beside, and what it is to reach."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
from clock import Job
from downstream import same_answers
from levers import ALL_ON, LEVERS, PEER
from quality import right_or_wrong
from ratios import Numbers, ratios, spread
from startup import starts

from ptm_lightning.significance import randomisation_p

PEERS = {"trainer": "transformers.Trainer", "lightning": "plain Lightning"}
LAYOUTS = {"rows": "ragged rows", "blocks": "blocks"}
GOALS = {("rows", "fp32"): 9.0, ("rows", "bf16"): 6.0, ("blocks", "fp32"): 5.5, ("blocks", "bf16"): 3.5}
"""What ours is to reach against `transformers.Trainer`."""
PEER_GOAL = 4.0
"""The same against one that is given our matrix products."""
EFFICIENCY_GOALS = {"fp32": 0.75, "bf16": 0.55}
"""FLOP/s at size small without dropout, over those of the best matrix product."""
PRESETS = ("bert", "roberta", "albert", "gpt", "xlnet", "t5", "bart", "electra")
PEER_PRESETS = {"gpt": {"fp32": 2.0, "bf16": 1.5}, "xlnet": {"fp32": 3.0, "bf16": 3.0}}
"""Those whose peer is no masked language modelling, and what ours is to reach against it."""
FINE_TUNING = {"trainer": ("padded to the longest allowed", 6.0), "grouped": ("its best flags", 2.0)}
"""What the peers of fine-tuning are called, and what ours is to reach against them in fp32."""
ANSWERING = {
    ("predict", "pipeline"): ("labels, over pipeline", 4.0),
    ("answer", "generate"): ("summaries, over generate", 2.0),
}
"""The same for answering: ours and the peer."""
LOADER_GOAL = 10
"""Times as fast as the network trains on batches, these are to be prepared."""
LOOP_TOKENS = 512
"""Tokens of a batch where the loop's own time is looked for."""
LOOP_STEPS = 40
"""Times as many steps there."""


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
        ("optimizer", "share of time in the optimizer"),
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
        agreement = measuring.check_agreement(replace(job, precision=precision))
        best = measuring.work("limits.py", replace(job, what="matmul", precision=precision))["flops_per_second"]
        results[precision] = {"agreement": agreement, "best_matmul": best}
        for layout in ("rows", "blocks"):
            this = replace(job, precision=precision, layout=layout)
            turns = measuring.measure(this, pairs, "peers.py", PEERS)
            print_comparison(this, turns, best)
            results[precision][layout] = {"turns": turns, "ratios": {peer: ratios(turns, peer) for peer in PEERS}}
    return results


def levers(job: Job, precisions: Sequence[str], pairs: int) -> dict[str, Any]:
    """What each lever brings, on ragged rows."""
    results: dict[str, Any] = {}
    for precision in precisions:
        off = [name for name in LEVERS if name != ALL_ON]
        turns = measuring.measure(replace(job, precision=precision), pairs, "levers.py", [*off, PEER], ALL_ON)
        brought = {name: ratios(turns, name, ALL_ON) for name in (*off, PEER)}
        print(f"\nragged rows, {precision}: ours over ours without, useful tokens per second")
        for name in off:
            print(f"  {name:<40}{spread(brought[name])}")
        print(f"  {'over ' + PEER:<40}{spread(brought[PEER])}   goal {PEER_GOAL:g}", flush=True)
        results[precision] = {"turns": turns, "ratios": brought}
    return results


def costs(job: Job, pairs: int) -> dict[str, Any]:
    """What ours costs beyond the network."""
    idle = replace(job, what="idle loop", batch_tokens=LOOP_TOKENS, steps=LOOP_STEPS * job.steps)
    large = replace(job, what="loop")
    loops_idle, loops_large = ([measuring.work("limits.py", each) for _ in range(pairs)] for each in (idle, large))
    stores = [measuring.work("limits.py", replace(job, what="tokenizing"))["store"] for _ in range(pairs)]
    once, tenfold = (measuring.work("limits.py", replace(job, what=f"memory {times}")) for times in ("1x", "10x"))
    results = {
        "trainer's loop over a bare one, tiny": [found["overhead"] for found in loops_large],
        "the same in ms a step, without a network, goal 0.4": [1e3 * e["overhead_seconds"] for e in loops_idle],
        "batches prepared over batches trained on, tiny": [found["loader"] for found in loops_large],
        "building a token store over encode_batch_fast": stores,
    }
    for precision, goal in EFFICIENCY_GOALS.items():
        this = replace(job, what="efficiency", precision=precision)
        found = [measuring.work("limits.py", this) for _ in range(pairs)]
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
        turns = [measuring.work("objectives.py", replace(job, what="loop", preset=preset)) for _ in range(pairs)]
        results["loops"][preset] = turns
        loader, overhead = (spread([found[key] for found in turns]) for key in ("loader", "overhead"))
        print(f"{preset:<10}{loader:<44}{overhead}", flush=True)
    for preset in PEER_PRESETS:
        measuring.work("objectives.py", replace(job, what="prepare", preset=preset))
        for precision in precisions:
            this = replace(job, preset=preset, precision=precision)
            measuring.check_agreement(this, "objectives.py")
            beside = measuring.measure(this, pairs, "objectives.py", ["trainer"])
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
    results: dict[str, Any] = {"classifier": measuring.work("downstream.py", job)}
    measuring.check_agreement(replace(job, preset="classification"), "downstream.py")
    turns = measuring.measure(job, pairs, "downstream.py", FINE_TUNING)
    results["training"] = {"turns": turns, "ratios": {peer: ratios(turns, peer) for peer in FINE_TUNING}}
    print("\nfine-tuning a classifier, fp32: ours over transformers.Trainer, useful tokens per second")
    for peer, (name, goal) in FINE_TUNING.items():
        print(f"  {name:<40}{spread(ratios(turns, peer))}   goal {goal:g}", flush=True)
    results["quality"] = quality(job)
    results["summarizer"] = measuring.work("downstream.py", replace(job, what="prepare_answers", text=summaries))
    print("\nanswers per second, loading the network included")
    for (ours, peer), (name, goal) in ANSWERING.items():
        turns = measuring.measure(job, pairs, "downstream.py", [peer], ours)
        faster = ratios(turns, peer, ours, "answers_per_second")
        same = same_answers(Path(job.folder), ours, peer)
        print(f"  {name:<40}{spread(faster)}   goal {goal:g}; {same:.1%} of the answers are the same", flush=True)
        results[ours] = {"turns": turns, "ratios": faster, "same": same}
    return results


def quality(job: Job) -> dict[str, Any]:
    """What ours and the peer with its best flags have learned from as many rows."""
    names = {"ours": "ours", "grouped": FINE_TUNING["grouped"][0]}
    learned = {what: measuring.work("quality.py", replace(job, what=what)) for what in names}
    p = randomisation_p(right_or_wrong(job, "ours"), right_or_wrong(job, "grouped"))
    steps, rows = (learned["ours"][key] for key in ("steps", "rows"))
    print(f"\naccuracy on {rows:,.0f} held-out rows after {steps:,.0f} steps; a paired test says p = {p:.2f}")
    for what, name in names.items():
        print(f"  {name:<40}{learned[what]['accuracy']:.4f}", flush=True)
    return learned | {"p": p}
