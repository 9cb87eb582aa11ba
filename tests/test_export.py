"""What the exported folder holds, and what stands when exporting fails."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import TINY, Labels, link, save, trained
from ptm_lightning.tasks import (
    MaskedLM,
)
from safetensors import SafetensorError, safe_open
from transformers import BertForMaskedLM

import ptm_lightning.export
from ptm_lightning.errors import UserError
from ptm_lightning.export import MARKER, export


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return trained(MaskedLM(overrides=TINY), link(), tmp_path / "run" / "checkpoints" / "step=00000007.ckpt")[1]


@pytest.fixture
def earlier(checkpoint: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of an export at `tmp_path / "model"`."""
    return contents(export(checkpoint, tmp_path / "model", MaskedLM))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_litter(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_folder_holds_what_is_needed_and_no_code(checkpoint: Path, tmp_path: Path):
    folder = export(checkpoint, tmp_path / "model", MaskedLM)
    names = ["README.md", "config.json", "model.safetensors", MARKER, "tokenizer.json", "tokenizer_config.json"]
    assert sorted(contents(folder)) == sorted(names)
    assert "auto_map" not in (folder / "config.json").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 24
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # others may read all of it, or none
    assert json.loads((folder / MARKER).read_text())["step"] == 7


def test_tied_weights_are_stored_once(checkpoint: Path, tmp_path: Path):
    with safe_open(export(checkpoint, tmp_path / "model", MaskedLM) / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "bert.embeddings.word_embeddings.weight" in names
    assert "cls.predictions.decoder.weight" not in names


def test_an_earlier_export_is_replaced(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    _, newer = trained(MaskedLM(overrides=TINY, seed=5), link(), tmp_path / "newer.ckpt")
    export(newer, tmp_path / "model", MaskedLM)
    now = contents(tmp_path / "model")
    assert now["model.safetensors"] != earlier["model.safetensors"]
    assert now.keys() == earlier.keys()
    assert no_litter(tmp_path)


def test_an_empty_folder_is_taken(checkpoint: Path, tmp_path: Path):
    (tmp_path / "model").mkdir()
    assert MARKER in contents(export(checkpoint, tmp_path / "model", MaskedLM))
    assert no_litter(tmp_path)


@pytest.mark.parametrize("at", ["old away", "new in"])
def test_a_failed_rename_leaves_the_old_folder(
    at: str, checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source).name == ("model" if at == "old away" else ".model.tmp"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert contents(tmp_path / "model") == earlier
    assert no_litter(tmp_path)


def test_what_a_kill_has_left_is_put_right(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    """SIGKILL between the two renames, the worst moment: the next call gives the old folder back."""
    model, old, half = tmp_path / "model", tmp_path / ".model.old", tmp_path / ".model.tmp"
    os.rename(model, old)
    half.mkdir()
    (half / "config.json").write_text("{")
    with pytest.raises(UserError, match="no such checkpoint"):
        export(tmp_path / "none.ckpt", model, MaskedLM)
    assert contents(model) == earlier
    assert no_litter(tmp_path)


def test_leftovers_beside_a_whole_folder_are_removed(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    shutil.copytree(tmp_path / "model", tmp_path / ".model.old")  # killed before the old one was deleted
    (tmp_path / ".model.tmp").mkdir()
    export(checkpoint, tmp_path / "model", MaskedLM)
    assert no_litter(tmp_path)


def test_another_model_is_not_put_in_place(
    checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    real = BertForMaskedLM.save_pretrained

    def torn(network: BertForMaskedLM, folder: Path) -> None:
        with torch.no_grad():
            network.cls.predictions.bias[3] += 0.001
            real(network, folder)
            network.cls.predictions.bias[3] -= 0.001

    monkeypatch.setattr(BertForMaskedLM, "save_pretrained", torn)
    with pytest.raises(RuntimeError, match=r"gives other logits than the checkpoint \(by 1\.0e-03\)"):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert contents(tmp_path / "model") == earlier


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond: the kernel refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2000, 20_000])
def test_a_full_disk_is_named(size: int, checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    model = tmp_path / "model"
    message = f"{model}: no space left to write the model; make room or name another folder"
    with files_up_to(size), pytest.raises(UserError) as caught:
        export(checkpoint, model, MaskedLM)
    assert str(caught.value) == message
    assert contents(model) == earlier
    assert no_litter(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_no_space_left_is_named(error: Exception, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ptm_lightning.export, "_write", full)
    with pytest.raises(UserError, match="model: no space left"):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert not (tmp_path / "model").exists()


def test_what_is_not_ours_is_left_alone(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    thesis, file = tmp_path / "thesis", tmp_path / "file"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("1")
    file.write_text("1")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    for target, message in {
        thesis: f"--output {thesis}: holds something else than an export; name another folder",
        file: f"--output {file}: is a file; name a folder",
        tmp_path / "model": f"--output {tmp_path}/model: holds files of yours (notes.txt); name another folder",
        file / "model": f"{file}/model: can't be written (Not a directory); name another folder",
    }.items():
        with pytest.raises(UserError) as caught:
            export(checkpoint, target, MaskedLM)
        assert str(caught.value) == message
    assert contents(thesis) == {"chapter.txt": b"1"}
    assert contents(tmp_path / "model") == earlier | {"notes.txt": b"mine"}


def test_a_checkpoint_of_another_task_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        export(checkpoint, tmp_path / "model", Labels)
    assert str(caught.value) == f"{checkpoint}: was written by MaskedLM, not by Labels; use that task's class"


def test_weights_that_do_not_fit_the_task_are_refused(tmp_path: Path):
    task = MaskedLM(overrides=TINY)
    _, path = trained(task, link(), tmp_path / "a.ckpt")
    save(task, path, state_dict={"network.other": torch.zeros(1)})
    with pytest.raises(UserError, match=r"a\.ckpt: its weights don't fit MaskedLM"):
        export(path, tmp_path / "model", MaskedLM)


def test_a_network_of_a_plug_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, path = trained(MaskedLM(overrides=TINY), link(), tmp_path / "a.ckpt")
    monkeypatch.setattr(BertForMaskedLM, "__module__", "my_plug_in")
    with pytest.raises(UserError, match=r"its network BertForMaskedLM is not one of transformers' own"):
        export(path, tmp_path / "model", MaskedLM)
    assert not (tmp_path / "model").exists()
