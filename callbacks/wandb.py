"""Weights & Biases: a copy of a run's settings, metrics, samples and model, sent at once or kept to be sent later."""

import os
import secrets
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ptm_lightning.log import say
from ptm_lightning.run import read_config, without_secrets

from .wandb_history import STEP, Sent, csv_rows, ends, local_history, server_history, unsent
from .wandb_server import why_offline

if TYPE_CHECKING:
    from wandb import Run

INIT_SECONDS, FINISH_SECONDS, FLUSH_SECONDS = 10.0, 60.0, 2.0
"""The longest waits: for the server to open a run and to take the rest of it, for the disk to have it."""


class Wandb(Logger):
    """Records a run on Weights & Biases; offline when asked, without an API key, or if the server doesn't answer.

    The run opens with the first metric, keeps its id in `<save_dir>/wandb_id`, and keeps all its files in `save_dir`.
    A resumed run goes on: each step is sent once, and what a kill kept from W&B is sent again from `metrics.csv`. Every
    row holds the step and the tokens seen, so both can be the horizontal axis. Nothing that W&B does ends a training.

    Args:
        save_dir: The run folder. Its `config.yaml`, if there, is what is sent as settings; its `model` folder is sent
            as an artifact with the aliases best and latest.
        project: Default: $WANDB_PROJECT, or else ptm_lightning.
        name: The run's name; default: the folder's.
        offline: Don't look for the server; `wandb sync` sends the run later.
    """

    def __init__(
        self, save_dir: str | Path, project: str | None = None, name: str | None = None, offline: bool = False
    ) -> None:
        super().__init__()
        self._folder = Path(save_dir).resolve()  # wandb writes on after the user has gone to another folder
        self._project = project or os.environ.get("WANDB_PROJECT") or "ptm_lightning"
        self._title = name or self._folder.name
        self._offline = offline
        self._config: dict[str, Any] = {}
        self._run: Run | None = None
        self._sent = Sent(-1, frozenset())
        self._resumed_at = -1
        self._environment: list[str] = []

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's id, if it was opened."""
        path = self._folder / "wandb_id"
        return path.read_text().strip() if path.exists() else None

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    @property
    @rank_zero_experiment
    def run(self) -> "Run":
        """W&B's own object, opened on first use.

        It isn't called `experiment`, which Lightning touches before it knows that training begins: a run that fails
        early would leave an empty one.
        """
        if self._run is None:
            self._run = run = self._open()
            self._sent = local_history(self._folder, run.id) if run.offline else server_history(dict(run.summary))
            if self._sent.step >= 0:
                say(f"W&B run {run.id} goes on; it holds everything up to step {self._sent.step}")
            self._catch_up()
        return self._run

    # What Lightning calls

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Takes the settings, without secrets: the run folder's `config.yaml`, or else these."""
        whole = (self._folder / "config.yaml").exists()
        given = vars(params) if isinstance(params, Namespace) else params
        self._config = without_secrets(read_config(self._folder) if whole else given)
        if self._run is not None:
            self._run.config.update(self._config, allow_val_change=True)  # type: ignore[no-untyped-call]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends a row, unless the run holds it.

        Args:
            metrics: By name; "tokens" is how many were seen in training.
            step: The optimizer steps done.
        """
        self._log({name: value for name, value in metrics.items() if name != "tokens"}, step, metrics.get("tokens"))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: Sequence[Sequence[Any]], step: int | None = None) -> None:
        """Sends a table, unless the run holds it.

        Args:
            key: The table's name.
            columns: Names of the columns.
            data: The rows.
            step: The optimizer steps done.
        """
        import wandb

        self._log({key: wandb.Table(columns=[*columns], data=[list(row) for row in data])}, step, None)

    @rank_zero_only
    def log_image(self, key: str, path: Path, step: int | None = None) -> None:
        """Sends an image, unless the run holds it.

        Args:
            key: Its name.
            path: A PNG file.
            step: The optimizer steps done.
        """
        import wandb

        self._log({key: wandb.Image(str(path))}, step, None)

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Goes on from a checkpoint.

        Args:
            step: The checkpoint's.
        """
        self._resumed_at = step

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Sends the exported model, if it is there and wasn't sent before. The run stays open for a test."""
        files = [path for path in (self._folder / "model").rglob("*") if path.is_file()]
        if status != "success" or not files:
            return
        stamp, mark = str(max(path.stat().st_mtime_ns for path in files)), self._folder / "wandb" / "model_sent"
        if not (mark.exists() and mark.read_text() == stamp) and not self.run.disabled:
            self._attempt(lambda: self._send_model(mark, stamp))

    @rank_zero_only
    def finish(self) -> None:
        """Closes the run, waiting for the server at most a minute. The end of the process does it too."""
        if self._run is not None:
            run, self._run = self._run, None
            try:
                close(run)
            except Exception as error:
                say(f"W&B failed at the end of the run ({_first_line(error)}); metrics.csv is the record")
        while self._environment:
            os.environ.pop(self._environment.pop(), None)

    # Opening

    def _open(self) -> "Run":
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            if variable not in os.environ:
                os.environ[variable] = str(self._folder / "wandb" / "files")
                self._environment.append(variable)
        try:
            if wandb.run is not None and wandb.run.id == self.version:
                close(wandb.run)  # an earlier logger's, in the same process
            why = "as asked" if self._offline else why_offline()
            if why is None:
                run = self._init(None)
                say("W&B is switched off by WANDB_MODE" if run.disabled else f"W&B run {run.id}: {run.url}")
                return run
        except Exception as error:  # whatever ails W&B, training goes on
            why = _first_line(error)
            wandb.teardown()  # else the failed run's id stays in use
        try:
            run = self._init("offline")
        except Exception as error:
            return self._give_up(error)
        folders = self._folder / "wandb" / f"offline-run-*-{run.id}"
        say(f"W&B records offline ({why}); send it later: wandb sync --project {self._project} {folders}")
        return run

    def _init(self, mode: Any) -> "Run":
        import wandb

        shown: dict[str, Any] = {"silent": True} if mode == "offline" else {"quiet": True}  # we say how to send it
        run = wandb.init(
            project=self._project,
            name=self._title,
            dir=str(self._folder),
            id=self._id(),
            resume="allow",
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, **shown),
        )
        run.config.update(self._config, allow_val_change=True)  # type: ignore[no-untyped-call]
        for axis in (STEP, "tokens"):
            run.define_metric(axis)
        run.define_metric("*", step_metric=STEP)
        return run

    def _id(self) -> str:
        if (stored := self.version) is not None:
            return stored
        chosen = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        (self._folder / "wandb_id").write_text(chosen + "\n")
        return chosen

    # Sending

    def _log(self, values: dict[str, Any], step: int | None, tokens: float | None) -> None:
        run = self.run
        step = self._sent.step if step is None else step
        new = unsent(values, step, self._sent)
        if not new:
            return
        before, step = self._sent, max(step, self._sent.step)
        self._sent = Sent(step, frozenset(new) | (before.names if step == before.step else frozenset()))
        axes = {STEP: step} if tokens is None else {STEP: step, "tokens": int(tokens)}
        self._attempt(lambda: run.log(new | axes))

    def _catch_up(self) -> None:
        """Sends from our own record, up to the checkpoint, what a kill kept from W&B."""
        path = self._folder / "metrics.csv"
        for step, tokens, values in csv_rows(path, self._resumed_at) if path.exists() else ():
            self._log(values, step, tokens)

    def _send_model(self, mark: Path, stamp: str) -> None:
        import wandb

        artifact = wandb.Artifact(f"model-{self.run.id}", type="model")
        artifact.add_dir(str(self._folder / "model"))
        self.run.log_artifact(artifact, aliases=["best", "latest"])
        mark.write_text(stamp)

    def _attempt(self, send: Callable[[], object]) -> None:
        try:
            send()
        except Exception as error:  # W&B's process may die at any time, and training must not
            self._run = self._give_up(error)

    def _give_up(self, error: Exception) -> "Run":
        import wandb

        say(f"W&B failed ({_first_line(error)}); training goes on without it, and metrics.csv is the record")
        return wandb.init(mode="disabled", reinit="finish_previous")


def close(run: "Run") -> None:
    """Finishes a run, and waits until its file is whole: W&B writes the end of it a little later."""
    run.finish()
    file, deadline = Path(run.settings.sync_file), time.monotonic() + FLUSH_SECONDS
    while file.exists() and not ends(file) and time.monotonic() < deadline:
        time.sleep(0.01)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
