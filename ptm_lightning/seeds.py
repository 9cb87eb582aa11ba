"""Several seeds: a run for each, one after another below one folder; it is gone on with as a whole."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ptm_lightning.checkpoint import best, read_index
from ptm_lightning.commandline import choose_classes
from ptm_lightning.errors import UserError
from ptm_lightning.fitting import RUN_DIR, fit, layers_of, preset_of, remove_untouched, run_folder
from ptm_lightning.log import say
from ptm_lightning.plugins import find_class
from ptm_lightning.run import RunLock, State, read_config, read_state, seeds_of, write_config, write_state
from ptm_lightning.significance import over_seeds
from ptm_lightning.task import Task

SEED_FLAGS = ("--model.seed", "--data.seed")


def fit_seeds(own: argparse.Namespace, rest: list[str]) -> int:
    """Trains, or goes on with a run: once, or for each of several seeds."""
    seeds = _asked(own, rest)
    if own.dry_run:
        return fit(_with(own, seed=seeds[0]) if seeds else own, rest)
    if own.resume is not None and RUN_DIR not in os.environ:
        folder = run_folder(own)
        own, seeds = _with(own, resume=str(folder)), seeds_of(folder)
    if not seeds:
        return fit(own, rest)
    if own.resume is None:
        task = choose_classes(layers_of(own), own.model, own.data)[0]
        folder = run_folder(own)
        with RunLock(folder):
            write_state(folder, {"preset": preset_of(own), "task": task.__name__, "seeds": seeds})
            try:
                return _fit_each(own, rest, folder, seeds)
            except Exception:
                remove_untouched(folder, named=own.run_dir is not None)
                raise
    with RunLock(folder):
        return _fit_each(own, rest, folder, seeds)


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return folder / f"seed_{seed}"


def runs_of(folder: Path) -> list[Path]:
    """The runs of a folder: one for each seed, or itself."""
    return [seed_folder(folder, seed) for seed in seeds_of(folder)] or [folder]


def best_metrics(folder: Path) -> dict[str, float]:
    """The validation metrics of a run's best checkpoint; none before the first."""
    path = best(folder / "checkpoints")
    return next((entry.metrics for entry in read_index(folder / "checkpoints") if path and entry.name == path.name), {})


def print_over_seeds(metrics: Sequence[dict[str, float]], shown: Sequence[str] = ()) -> None:
    """A line for each metric: its mean and deviation over the seeds.

    Args:
        metrics: Of each seed's run.
        shown: Their names without the part before the slash; () is all.
    """
    if not any(metrics):
        return
    print(f"\n{f'over {len(metrics)} seeds':<28}{'mean':>10}{'deviation':>12}")
    for name in sorted(set.intersection(*map(set, metrics))):
        if not shown or name.partition("/")[2] in shown:
            mean, deviation, _ = over_seeds([each[name] for each in metrics])
            print(f"{name:<28}{mean:>10.4f}{deviation:>12.4f}")


def _with(own: argparse.Namespace, **changes: object) -> argparse.Namespace:
    return argparse.Namespace(**vars(own) | changes)


def _asked(own: argparse.Namespace, rest: Sequence[str]) -> list[int]:
    """The seeds that the command line asks for; none if it doesn't."""
    if own.seeds is None:
        return []
    if own.resume is not None:
        raise UserError("--seeds: --resume goes on with the seeds that the run has; leave it out")
    if flag := next((flag for flag in rest if flag.startswith(SEED_FLAGS)), "--seed" if own.seed is not None else None):
        raise UserError(f"{flag.partition('=')[0]}: --seeds gives each run its own; leave one of them out")
    seeds: list[int] = list(range(own.seeds[0])) if len(own.seeds) == 1 else own.seeds
    if len(seeds) < 2:
        raise UserError(f"--seeds {own.seeds[0]}: is how many there are, at least 2; for a single one give --seed")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: one comes twice; give others")
    return seeds


def _fit_each(own: argparse.Namespace, rest: list[str], folder: Path, seeds: Sequence[int]) -> int:
    """Trains the seeds that aren't finished; all of them if limits are changed."""
    changed = bool(rest or own.config or own.max_tokens or own.max_hours)
    outcome: State = "failed"
    write_state(folder, {"state": "running"})
    try:
        for seed in seeds:
            run = seed_folder(folder, seed)
            if own.resume is not None and not changed and (read_state(run) or {}).get("state") == "finished":
                continue
            say(f"seed {seed}: {run}")
            if own.resume is not None and not (run / "config.yaml").exists():
                _begin(run, seed, [seed_folder(folder, other) for other in seeds])
            resume = None if own.resume is None else str(run)
            if status := fit(_with(own, run_dir=str(run), resume=resume, seed=seed), rest):
                outcome = "interrupted"
                return status
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        write_state(folder, {"state": outcome})
    _print_end(folder, seeds)
    return 0


def _begin(run: Path, seed: int, others: Sequence[Path]) -> None:
    """Gives a run that wasn't begun the settings of another one, with a seed of its own."""
    begun = next((other for other in others if (other / "config.yaml").exists()), None)
    if begun is None:
        raise UserError(f"--resume {run.parent}: none of its runs was begun; start another one")
    config = read_config(begun)
    own_seed = {section: config[section] | {"seed": seed} for section in ("model", "data")}
    run.mkdir(exist_ok=True)
    write_config(run, config | own_seed | {"seed": seed})
    state = read_state(run.parent) or {}
    write_state(run, {"preset": state["preset"], "task": state["task"]})


def _print_end(folder: Path, seeds: Sequence[int]) -> None:
    """The last screen: the metrics over all seeds, and what to do with them."""
    task = find_class((read_state(folder) or {})["task"], Task, "--model")
    print_over_seeds([best_metrics(run) for run in runs_of(folder)], task.headline)
    print(f"\nmodels:  {seed_folder(folder, seeds[0]) / 'model'}, ...")
    print(f"next:    python -m ptm_lightning test --run_dir {folder}")
