"""What goes wrong with a run's files, its disk and its numbers: one clear message, exit status 2, nothing lost."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ptm_lightning.__main__ import main
from ptm_lightning.checkpoint import KEY, load_checkpoint, step_files
from ptm_lightning.run import read_state

NETWORK = "--model.overrides={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}"
VOCABULARY = "--data.vocab_size=600"
DATA = ["--data.max_length=32", "--data.batch_tokens=512", "--data.validation_share=0.1"]


def fit(corpus: Path, *more: str) -> int:
    brought = any(flag.startswith(("--model.backbone", "--init_from")) for flag in more)
    network = [] if brought else [NETWORK]
    if not brought and not any(flag.startswith("--data.tokenizer") for flag in more):
        network.append(VOCABULARY)
    return main(["fit", "--model", "MaskedLM", "--data.train", str(corpus), *network, *DATA, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        assert fit(corpus, "--trainer.max_steps=4", "--run_dir", str(folder)) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run in it, `run`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    screen = capfd.readouterr().err
    assert "Traceback" not in screen
    return screen.strip().splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Code:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def write_bad(path: Path) -> None:
    """Makes the bad checkpoint that the name says."""
    if path.stem == "code":
        torch.save({"state_dict": {}, "more": Code()}, path)
    elif path.stem == "foreign":
        torch.save({"state_dict": {}, "epoch": 1, "global_step": 3}, path)
    elif path.stem == "junk":
        path.write_bytes(b"no checkpoint")


BAD = {
    "code": "carries Python code, which is never run; make it again without",
    "foreign": "was not written by ptm_lightning; take a run's, or a transformers folder as --model.backbone",
    "junk": "is damaged or no checkpoint at all; use another one, --resume takes the newest valid one",
    "missing": "no such checkpoint",
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("command", ["validate", "predict", "export", "fit"])
def test_a_bad_checkpoint(command: str, bad: str, here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    file = f"{bad}.ckpt"
    write_bad(here / file)
    before = contents(here)
    if command == "fit":
        assert fit(corpus, "--run_dir=new", "--init_from", file) == 2
    else:
        more = {"predict": ["--text", "a [MASK]"], "export": ["--output", "model"]}.get(command, [])
        assert main([command, "--run_dir", "run", "--checkpoint", file, *more]) == 2
    message = f"{file}: {BAD[bad]}"
    if (command, bad) == ("fit", "missing"):
        message = f"--init_from {file}: no run, checkpoint or transformers folder, and no such model on the hub"
    assert last_line(capfd).startswith(f"error: {message}")
    assert contents(here) == before
    assert not (here / "harm").exists()


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_a_checkpoint_of_another_task(command: str, here: Path, capfd: pytest.CaptureFixture[str]):
    saved = load_checkpoint(step_files(Path("run/checkpoints"))[4])
    saved[KEY]["task"] = "CausalLM"
    torch.save(saved, "other.ckpt")
    more = ["--text", "a [MASK]"] if command == "predict" else []
    assert main([command, "--run_dir", "run", "--checkpoint", "other.ckpt", *more]) == 2
    assert "other.ckpt: was written by CausalLM, and this is a run of MaskedLM; name one of its own" in last_line(capfd)


def test_a_head_that_was_never_trained(here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["predict", "--model=SequenceClassification", "--model.backbone=run/model", "--text", "a word"]) == 2
    assert "--model.backbone run/model has no weights for" in last_line(capfd)


def test_check_takes_a_head_that_was_never_trained(here: Path, corpus: Path):
    data = [f"--data.train={corpus}", "--data.max_length=32"]
    assert main(["check", "--model=NextSentence", "--model.backbone=run/model", *data]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--init_from=run/checkpoints"],
            "--init_from run/checkpoints: the folder is neither a run with a checkpoint nor a transformers folder",
        ),
        (
            ["--init_from=run", "--model.size=mini"],
            "--model.size: --init_from brings its own network; leave one of them out",
        ),
    ],
)
def test_init_from_something_else(
    arguments: list[str], message: str, here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
):
    assert fit(corpus, "--run_dir=new", *arguments) == 2
    assert last_line(capfd) == f"error: {message}"
    assert not (here / "new").exists()


def test_resume_skips_a_damaged_checkpoint_by_name(here: Path, capfd: pytest.CaptureFixture[str]):
    newest = list(step_files(here / "run/checkpoints").values())[-1]
    newest.write_bytes(newest.read_bytes()[:-99])
    assert main(["fit", "--resume", "run", "--trainer.max_steps=5"]) == 0
    screen = capfd.readouterr()
    name = "run/checkpoints/step=00000004.ckpt"
    assert f"{name}: is damaged or no checkpoint at all; it is skipped" in screen.err.splitlines()
    assert "3 are done" in screen.err
    assert load_checkpoint(step_files(here / "run/checkpoints")[5])["global_step"] == 5


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("code", "carries Python code, which is never run"),
        ("foreign", "was not written by ptm_lightning"),
        ("junk", "is damaged or no checkpoint at all"),
    ],
)
def test_resume_without_any_good_checkpoint(bad: str, reason: str, here: Path, capfd: pytest.CaptureFixture[str]):
    write_bad(here / f"{bad}.ckpt")
    for path in step_files(here / "run/checkpoints").values():
        shutil.copy(here / f"{bad}.ckpt", path)
    before = contents(here)
    assert main(["fit", "--resume", "run", "--trainer.max_steps=6"]) == 2
    screen = capfd.readouterr().err.strip().splitlines()
    assert screen[-1] == "error: --resume run: none of its checkpoints can be read; start another run"
    for step in (3, 4):
        assert f"run/checkpoints/step={step:08d}.ckpt: {reason}; it is skipped" in screen
    assert contents(here) == before
    assert not (here / "harm").exists()


def test_a_checkpoint_that_does_not_fit_the_task(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    path = step_files(here / "run/checkpoints")[4]
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {"network.other": torch.zeros(3)}
    saved["ptm_lightning"]["task"] = "Other"
    torch.save(saved, here / "other.ckpt")
    assert fit(corpus, "--run_dir=new", "--init_from=other.ckpt") == 2
    assert last_line(capfd) == (
        "error: other.ckpt: its weights don't fit MaskedLM with these arguments (Other wrote it); "
        "export it and give the folder as --model.backbone"
    )


def test_a_tokenizer_without_a_mask_token(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    tokenizer.mask_token = None
    tokenizer.save_pretrained("unmasked")
    assert fit(corpus, "--run_dir=new", "--data.tokenizer=unmasked") == 2
    assert last_line(capfd) == (
        "error: --data.tokenizer: the tokenizer has no mask token; take one that has, or --data.tokenizer train"
    )
    assert not (here / "new").exists()


def test_more_ids_than_embeddings(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    shutil.copytree("run/model", "larger")
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    tokenizer.add_tokens([f"new{i}" for i in range(9)])
    tokenizer.save_pretrained("larger")
    message = (
        "error: --data.tokenizer: the tokenizer has 609 ids, but the model's embeddings only 600 rows; "
        "take the tokenizer that the model was trained with"
    )
    assert fit(corpus, "--run_dir=new", "--model.backbone", "larger") == 2
    assert last_line(capfd) == message
    assert fit(corpus, "--run_dir=new", "--model.backbone", "run/model", "--data.tokenizer=larger") == 2
    assert last_line(capfd) == message
    assert not (here / "new").exists()


def test_a_length_beyond_the_positions(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--run_dir=new", "--model.backbone", "run/model", "--data.max_length=64") == 2
    assert last_line(capfd) == "error: --data.max_length 64: the model has 32 positions; use at most 32"
    assert not (here / "new").exists()


def test_a_loss_that_is_no_number(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    wild = ["--trainer.max_steps=9", "--model.warmup=0.5", "--model.learning_rate=1e30"]
    assert fit(corpus, "--run_dir=new", "--trainer.val_check_interval=4", "--model.warmup=0", *wild) == 2
    assert last_line(capfd) == (
        "error: the loss or the weights are not finite at step 2: lower --model.learning_rate (now 1e+30); "
        "new/checkpoints/step=00000001.ckpt is the last good checkpoint, --init_from takes its weights"
    )
    assert read_state(here / "new")["state"] == "failed"
    assert load_checkpoint(here / "new/checkpoints/step=00000001.ckpt")["global_step"] == 1


def test_a_validation_loss_that_is_no_number(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    wild = ["--trainer.max_steps=9", "--model.warmup=0", "--model.learning_rate=1e30", "--trainer.val_check_interval=1"]
    assert fit(corpus, "--run_dir=new", *wild) == 2
    assert last_line(capfd) == (
        "error: the loss or the weights are not finite at step 1: lower --model.learning_rate (now 1e+30); "
        "nothing was saved"
    )
    assert not step_files(here / "new/checkpoints")


# A full disk


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond: the kernel refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = "no space left on disk"


@pytest.mark.parametrize("size", [300, 10_000, 20_000])  # the last: the tokenizer, but not the tokens
def test_no_space_while_tokenizing(size: int, here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    with files_up_to(size):
        assert fit(corpus, "--run_dir=new", "--data.cache_dir=cache") == 2
    line = last_line(capfd)
    assert line.startswith(f"error: {FULL}")
    assert "make room, or choose" in line
    assert "--data.cache_dir" in line
    assert not (here / "new").exists()
    assert not list((here / "cache").rglob("*.partial"))
    assert fit(corpus, "--run_dir=new", "--data.cache_dir=cache", "--trainer.max_steps=1") == 0


def test_no_space_for_checkpoints_is_said_before_training(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ptm_lightning.callbacks.checkpoints.free_space", lambda folder: 1_000_000)
    assert fit(corpus, "--run_dir=new", "--trainer.max_steps=2") == 2
    assert last_line(capfd) == (
        "error: --run_dir new: 0.001 GB free, but checkpoints of 0.00037 GB each need 0.0015 GB; "
        "make room or choose another folder"
    )
    assert not (here / "new").exists()


def test_a_full_disk_while_training_costs_checkpoints_and_no_step(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
):
    with files_up_to(100_000):
        assert fit(corpus, "--run_dir=new", "--trainer.max_steps=8", "--trainer.val_check_interval=8") == 2
    line = last_line(capfd)
    assert line.startswith("error: checkpoint at step 3 not written (File too large, ")
    assert line.endswith("GB free), 3 times in a row; make room, then go on with --resume")
    warned = [str(warning.message) for warning in recwarn if "not written" in str(warning.message)]
    assert [text.partition(" (")[0] for text in warned] == [f"checkpoint at step {step} not written" for step in (1, 2)]
    assert all(text.endswith("; training goes on") for text in warned)
    assert read_state(here / "new")["state"] == "failed"
    assert main(["fit", "--resume", "new"]) == 0
    assert max(step_files(here / "new/checkpoints")) == 8
