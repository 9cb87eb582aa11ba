"""fit: the run folder, what may change on resume, training, and how it ended."""

import argparse
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.checkpoint import newest_valid, step_files
from ptm_lightning.commandline import parse
from ptm_lightning.environment import environment
from ptm_lightning.errors import UserError
from ptm_lightning.levers import LEVERS, ON_CUDA, is_on, switch_off
from ptm_lightning.log import say
from ptm_lightning.models.cores import limit_threads
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.origin import NETWORK, start_run, take_link
from ptm_lightning.presets import CLASS, Layer, flatten, read_layer
from ptm_lightning.run import (
    Interrupted,
    RunLock,
    RunState,
    State,
    new_run_dir,
    newest_unfinished,
    read_config,
    read_state,
    seeds_of,
    write_config,
    write_state,
)
from ptm_lightning.scores import SPLITS, data_digest
from ptm_lightning.summary import how_to_resume, print_summary

RUNS = Path("runs")
RUN_DIR, CHECKPOINT, MATMUL = "PTM_RUN_DIR", "PTM_CHECKPOINT", "PTM_MATMUL"
"""Environment variables that tell the other processes of a run what the first one has chosen."""
LIMITS_AND_LOGGING = (
    "trainer.max_",
    "max_",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.log_every",
    "trainer.enable_",
    "trainer.val_check_interval",
    "trainer.check_val_every",
    "trainer.limit_val",
    "trainer.num_sanity",
    "trainer.default_root_dir",
    "trainer.profiler",
    "data.num_workers",
    "data.cache_dir",
    "data.predict",
    "data.text",
    "data.test",
)
"""Settings that may differ on resume."""


def layers_of(own: argparse.Namespace, stored: Mapping[str, Any] | None = None, base: str = "base") -> list[Layer]:
    """The layers below the command line; the embedded default only where nothing else is asked for."""
    named = own.config or ([] if own.model or stored else ["default"])
    below = [Layer("the run's config.yaml", dict(stored))] if stored else []
    return [read_layer(base), *below, *(read_layer(name) for name in named)]


def preset_of(own: argparse.Namespace) -> str:
    """What a run is called after."""
    return Path(own.config[0]).stem if own.config else own.model or "default"


def fit(own: argparse.Namespace, rest: list[str]) -> int:
    """Trains, or goes on with a run."""
    if own.dry_run:
        with TemporaryDirectory() as scratch:
            return _fit(own, rest, Path(scratch), None)
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    if not first and RUN_DIR in os.environ:
        folder = Path(os.environ[RUN_DIR])
        return _fit(own, rest, folder, read_config(folder) if own.resume is not None else None)
    folder = run_folder(own)
    with RunLock(folder) if first else nullcontext():
        stored = read_config(folder) if own.resume is not None else None
        os.environ[RUN_DIR] = str(folder)
        try:
            return _fit(own, rest, folder, stored)
        except Exception:
            if first and own.resume is None:
                remove_untouched(folder, named=own.run_dir is not None)
            raise
        finally:
            for name in (RUN_DIR, CHECKPOINT, MATMUL):
                os.environ.pop(name, None)


def remove_untouched(folder: Path, *, named: bool) -> None:
    """A run that was refused before it began leaves nothing: the mended command may name the same folder."""
    names = {"lock", "run.json", "config.yaml"}
    if {path.name for path in folder.iterdir()} <= names:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if named:
            folder.rmdir()
        else:
            os.removedirs(folder)  # and those above it, if they are empty


def run_folder(own: argparse.Namespace) -> Path:
    """Where the run lies: that of --resume, or a new one."""
    if own.resume is not None:
        if own.resume or own.run_dir:
            folder = Path(own.resume or own.run_dir)
            if not seeds_of(folder) and not (folder / "config.yaml").exists():
                raise UserError(f"--resume {folder}: there is no run in it")
            return folder
        layers = layers_of(own)
        task = own.model or next(
            layer.values["model"][CLASS] for layer in reversed(layers) if CLASS in layer.values.get("model", {})
        )
        found = newest_unfinished(RUNS, preset_of(own), task)
        if found is None:
            raise UserError(f"--resume: no unfinished run of {preset_of(own)} ({task}) below {RUNS}; name its folder")
        say(f"resuming {found}")
        return found
    if own.run_dir is None:
        return new_run_dir(RUNS, preset_of(own))
    folder = Path(own.run_dir)
    if (folder / "run.json").exists():
        raise UserError(
            f"--run_dir {folder}: holds a run already; go on with --resume {folder}, or choose another folder"
        )
    return folder


def _fit(own: argparse.Namespace, rest: list[str], folder: Path, stored: dict[str, Any] | None) -> int:
    stored_environment = (stored or {}).pop("environment", {})
    _take_threads(stored_environment)
    line, config = parse(layers_of(own, stored), own, rest, str(folder))
    if config.get("init_from"):
        config["model"] |= {name: stored["model"][name] for name in NETWORK} if stored else {}
    if stored:
        _refuse_changes(stored, config, folder)
    task, data, trainer = line.model, line.datamodule, line.trainer
    if seeds_of(folder.parent) and trainer.world_size > 1:
        raise UserError("--seeds: only for runs of one process; start one for each seed, with --seed and --run_dir")
    kernels = _prepare_kernels(own.off, stored_environment.get("kernels", {}), trainer.strategy.root_device)
    checkpoint = _checkpoint_to_resume(folder) if stored else None
    if checkpoint:
        take_link(task, Path(checkpoint))
    elif config.get("init_from"):
        start_run(task, config["init_from"])
    config["model"] |= {name: getattr(task, name) for name in NETWORK}
    now = environment(trainer.precision, trainer.world_size) | {"kernels": kernels}
    state: RunState = read_state(folder) or {"preset": preset_of(own), "task": type(task).__name__}
    if own.dry_run:
        trainer.callbacks.append(_StopBeforeTraining())  # type: ignore[attr-defined]
    if trainer.is_global_zero and not own.dry_run:
        write_config(folder, config | {"environment": now})
        write_state(folder, {**state, "state": "running"})
    outcome: State = "failed"
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        outcome = "finished"
        if trainer.is_global_zero:
            state["data"] = {split: data_digest(data, split) for split in SPLITS}
    except _DryRun:
        print("dry run: everything is in place; nothing was trained")
        return 0
    except Interrupted as stop:
        outcome = "interrupted"
        print(f"{stop}\n{how_to_resume(folder.parent if seeds_of(folder.parent) else folder)}", file=sys.stderr)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        if trainer.is_global_zero and not own.dry_run:
            write_state(folder, {**state, "state": outcome})
    if trainer.is_global_zero:
        print_summary(folder, task, data)
    return 0


def _take_threads(stored: Mapping[str, Any]) -> None:
    """As many threads as the run began with, which its bits depend on; unless the user says how many."""
    if "threads" not in stored:
        limit_threads()
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(stored["threads"])


def _prepare_kernels(off: Collection[str], stored: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """The same kernels in all processes, for the first one chooses, and as long as the run lasts."""
    if stored and off:
        raise UserError("--off: a run goes on with the kernels that it began with; leave it out")
    known = {"cpu": LEVERS.keys(), "cuda": ON_CUDA}.get(device.type, frozenset())
    if unused := [name for name in off if name not in known]:
        raise UserError(f"--off {' '.join(unused)}: it is off on {device.type} anyway; leave it out")
    switch_off(off or [name for name, used in stored.items() if used == "default"])
    if device.type != "cpu":
        return {name: "own" if is_on(name) else "default" for name in known}
    kernels = prepare_cpu(os.environ.get(MATMUL, stored.get("matmul", "auto")))  # type: ignore[arg-type]
    os.environ[MATMUL] = kernels["matmul"]
    return kernels


class _DryRun(Exception):
    pass


class _StopBeforeTraining(Callback):
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _DryRun


def _checkpoint_to_resume(folder: Path) -> str | None:
    if CHECKPOINT in os.environ:
        return os.environ[CHECKPOINT] or None
    path, messages = newest_valid(folder / "checkpoints")
    for message in messages:
        say(message)
    if path is None and step_files(folder / "checkpoints"):
        raise UserError(f"--resume {folder}: none of its checkpoints can be read; start another run")
    if path is None:
        say(f"no checkpoint yet in {folder}: starting over")
    os.environ[CHECKPOINT] = str(path or "")
    return str(path) if path else None


def _refuse_changes(stored: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """On resume only limits and logging may change.

    Raises:
        UserError: With both values of the first other setting that differs.
    """
    before, after = flatten(stored), flatten(now)
    for key in before | after:
        if before.get(key) != after.get(key) and not _may_change(key, before, after):
            raise UserError(
                f"--{key}: {after.get(key)} now, {before.get(key)} in {folder}; leave it out to go on, "
                "or start another run with --init_from"
            )


def _may_change(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a setting is a limit or logging; a source for the test is neither where a share is held out without."""
    if key == "data.test" and before.get("data.test_share"):
        return bool(before[key] and after[key])
    return key.startswith(LIMITS_AND_LOGGING)
