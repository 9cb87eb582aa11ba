import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ptm_lightning.errors import UserError
from ptm_lightning.run import (
    Interrupted,
    RunLock,
    new_run_dir,
    newest,
    newest_unfinished,
    read_config,
    read_state,
    without_secrets,
    write_config,
    write_state,
)

HOLD = """
import os, sys, time
from pathlib import Path
from ptm_lightning.run import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
if sys.argv[2] == "alone" or os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def hold(folder: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_run_folders_are_new_ones(tmp_path: Path) -> None:
    folders = [new_run_dir(tmp_path / "runs", "mlm") for _ in range(3)]
    assert len(set(folders)) == 3
    for folder in folders:
        assert folder.is_dir()
        assert folder.parent == tmp_path / "runs" / "mlm"
    time.strptime(folders[0].name, "%Y%m%d-%H%M%S")


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"--run_dir .*runs/mlm.*: can't be made \(Not a directory\)"):
        new_run_dir(tmp_path / "runs", "mlm")


def test_the_second_writer_is_told_who_is_first(tmp_path: Path) -> None:
    process, pid = hold(tmp_path, "alone")
    try:
        with pytest.raises(UserError, match=rf"run folder {tmp_path} is in use by process {pid} on .+; wait"):
            RunLock(tmp_path).acquire()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with RunLock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_forked_worker_does_not_hold_a_killed_run_s_lock(tmp_path: Path) -> None:
    process, worker = hold(tmp_path, "fork")
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path):
            assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
        os.kill(worker, 0)  # it lives
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_lock_is_given_back(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path / "new"), RunLock(tmp_path / "new")
    with first, pytest.raises(UserError, match="is in use"):
        second.acquire()
    second.acquire()
    second.release()
    second.release()


def test_state_keeps_what_it_is_not_told(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, {"preset": "mlm", "task": "MaskedLM", "state": "running"})
    created = json.loads((tmp_path / "run.json").read_text())["created"]
    write_state(tmp_path, {"state": "finished", "best": {"step": 3}})
    state = read_state(tmp_path)
    assert state is not None
    assert state["created"] == created
    assert (state["preset"], state["task"], state["state"], state["best"]) == (
        "mlm",
        "MaskedLM",
        "finished",
        {"step": 3},
    )
    assert state["version"][0].isdigit()
    (tmp_path / "run.json").write_text("{torn")
    assert read_state(tmp_path) is None


def test_the_newest_unfinished_run_of_the_same_preset_and_task(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest_unfinished(tmp_path, "mlm", "MaskedLM") is None
    for name, preset, task, state in [
        ("d", "mlm", "MaskedLM", "interrupted"),
        ("c", "mlm", "MaskedLM", "running"),
        ("b", "mlm", "MaskedLM", "finished"),
        ("a", "mlm", "CausalLM", "failed"),
        ("e", "clm", "MaskedLM", "failed"),
    ]:
        write_state(tmp_path / preset / name, {"preset": preset, "task": task, "state": state})  # type: ignore[typeddict-item]
    assert newest_unfinished(tmp_path, "mlm", "MaskedLM") == tmp_path / "mlm" / "c"
    assert newest_unfinished(tmp_path, "mlm", "CausalLM") == tmp_path / "mlm" / "a"
    assert newest_unfinished(tmp_path, "clm", "CausalLM") is None
    assert newest(tmp_path) == tmp_path / "clm" / "e"


def test_config_comes_back_without_secrets(tmp_path: Path) -> None:
    config = {
        "model": {"learning_rate": 1e-3, "overrides": None},
        "data": {"batch_tokens": 4096, "tokenizer": "train", "train": ["ä.txt"], "mask_token": "[MASK]"},
        "max_tokens": 7,
        "trainer": {"logger": [{"init_args": {"api_key": "K", "apikey": "K", "name": "n"}}]},
    }
    secrets = {"hf_token": "K", "token": "K", "password": "K", "client_secret": "K", "WANDB_API_KEY": "K"}
    write_config(tmp_path, config | secrets)
    text = (tmp_path / "config.yaml").read_text()
    assert "K" not in text.replace("MASK", "")
    assert "ä.txt" in text
    assert list(yaml.safe_load(text)) == ["model", "data", "max_tokens", "trainer"]
    config["trainer"] = {"logger": [{"init_args": {"name": "n"}}]}
    assert read_config(tmp_path) == config == without_secrets(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; .* is not a run folder"),
        ("a: [1", "can't be read"),
        ("- 1\n", "holds no settings"),
        ("a: !!python/object/apply:os.getcwd []\n", "can't be read"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml: {message}"):
        read_config(tmp_path)


def test_interrupted_is_an_exit_status() -> None:
    assert (Interrupted(signal.SIGINT).code, Interrupted(signal.SIGTERM).code, Interrupted(None).code) == (130, 143, 0)
    assert str(Interrupted(signal.SIGTERM)) == "ended by SIGTERM"


def test_importing_run_imports_neither_torch_nor_lightning() -> None:
    code = "import sys, ptm_lightning.run; sys.exit(bool({'torch', 'lightning', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
