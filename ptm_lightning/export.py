"""Export: a checkpoint becomes a folder that transformers loads, whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from ptm_lightning.checkpoint import KEY, load_checkpoint, read_index
from ptm_lightning.data.tokenizer import load_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.files import disk_is_full, sync_folder, temporary_path
from ptm_lightning.finetuning import FineTuning
from ptm_lightning.link import Link
from ptm_lightning.model_card import card_data, model_card
from ptm_lightning.models.build import _quiet_transformers
from ptm_lightning.models.lora import merge_adapters, save_adapters
from ptm_lightning.run import read_config
from ptm_lightning.task import Task

MARKER = "ptm_lightning.json"
"""Says that a folder is an export of ours, from which checkpoint, and which files it has."""
TOLERANCE = 1e-5
PROBE = "A text of 1 line, to compare two tokenizers: naïve, 北京."


def export(
    checkpoint: Path,
    output: Path,
    task_class: type[Task],
    *,
    settings: Mapping[str, Any] | None = None,
    auxiliary: bool = False,
    adapter: bool = False,
) -> Path:
    """Writes the folder from which transformers alone loads a checkpoint's model.

    It holds safetensors, config (with label names), tokenizer, generation config if the network generates, and a model
    card; no code. It is written beside its place, loaded again, its logits compared, and then renamed. With weight
    averaging it is the average, for that is what a checkpoint's `state_dict` holds.

    Args:
        checkpoint: A file that a task of ours wrote.
        output: The folder to make. An earlier export there is replaced.
        task_class: The class of the task that wrote it.
        settings: What the model card says besides what the checkpoint knows: the arguments of "data" and "trainer",
            and the "environment" of the training. Default: `config.yaml` of the run folder, if there is one.
        auxiliary: Also writes the task's auxiliary networks, each to a folder of its own inside.
        adapter: Also writes the adapters (LoRA), which are merged into the weights, to the folder `adapter` inside.

    Returns:
        The folder, as an absolute path.

    Raises:
        UserError: The checkpoint can't be read or is another task's; the folder holds something else, can't be
            written, or the disk is full. What was there before still is.
    """
    target = Path(output).expanduser().resolve()
    checkpoint = Path(checkpoint)
    with _clear_errors(target):
        _clean_up(target)
        _check_target(target)
    facts = _facts(checkpoint, task_class)
    task = _load(checkpoint, task_class)
    fresh = temporary_path(target)
    metrics = next((entry.metrics for entry in read_index(checkpoint.parent) if entry.name == checkpoint.name), {})
    card = model_card(card_data(task, facts, metrics, _stored_settings(checkpoint) if settings is None else settings))
    try:
        with _clear_errors(target):
            fresh.mkdir(parents=True)
            _merge(task, fresh / "adapter" if adapter else None)
            _write(task, fresh, card)
            if auxiliary:
                _write_auxiliary(task, fresh)
            _check_reloads(task, fresh)
            _mark(fresh, facts, checkpoint)
            _replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _facts(checkpoint: Path, task_class: type[Task]) -> dict[str, Any]:
    """The checkpoint without its tensors."""
    loaded = load_checkpoint(checkpoint)
    name = loaded[KEY]["task"]
    if name != task_class.__name__:
        raise UserError(f"{checkpoint}: was written by {name}, not by {task_class.__name__}; use that task's class")
    return {key: loaded.get(key) for key in ("global_step", "epoch", "hyper_parameters", KEY)}


def _load(checkpoint: Path, task_class: type[Task]) -> Task:
    try:
        task = task_class.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except RuntimeError as error:  # torch's, with one line for each weight
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"{checkpoint}: its weights don't fit {task_class.__name__} ({problem})") from error
    network = task.network
    assert network is not None
    if type(network).is_custom_code():
        raise UserError(
            f"{task_class.__name__}: its network {type(network).__name__} is not one of transformers' own; "
            "a folder of it could not be loaded without its code"
        )
    return task.eval()


def _stored_settings(checkpoint: Path) -> dict[str, Any]:
    run = checkpoint.resolve().parent.parent
    return read_config(run) if (run / "config.yaml").exists() else {}


def _write(task: Task, folder: Path, card: str) -> None:
    network, link, tokenizer = task.network, task.link, task.tokenizer()
    assert network is not None
    assert link is not None
    assert tokenizer is not None
    if link.labels:
        network.config.id2label = dict(enumerate(link.labels))
        network.config.label2id = {label: index for index, label in enumerate(link.labels)}
    tokenizer.model_max_length = link.max_length
    with _quiet_transformers():
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _merge(task: Task, folder: Path | None) -> None:
    """Merges the adapters, and writes them to the folder before."""
    if not isinstance(task, FineTuning) or task.lora is None:
        if folder is not None:
            raise UserError("--adapter: the run has none; train it with --model.lora_rank, or leave the flag out")
        return
    assert task.network is not None
    if folder is not None:
        save_adapters(task.network, task.lora, task.trained_beside, str(task.backbone), folder)
    merge_adapters(task.network)


def _write_auxiliary(task: Task, folder: Path) -> None:
    networks, tokenizer = task.auxiliary_networks(), task.tokenizer()
    assert tokenizer is not None
    if not networks:
        raise UserError(f"--auxiliary: {type(task).__name__} has no network beside the one that is exported")
    for name, network in networks.items():
        with _quiet_transformers():
            network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _check_reloads(task: Task, folder: Path) -> None:
    """Loads the folder as anyone would, and compares.

    Raises:
        RuntimeError: It isn't the same model.
    """
    network, link, tokenizer = task.network, task.link, task.tokenizer()
    assert network is not None
    assert link is not None
    assert tokenizer is not None
    _check_network(network, task.auto_class, folder, link)
    for name, auxiliary in task.auxiliary_networks().items():
        if (folder / name).exists():
            _check_network(auxiliary, type(auxiliary).__name__, folder / name, link)
    with _quiet_transformers():  # the text may be longer than a row
        ids = [each(PROBE)["input_ids"] for each in (tokenizer, load_tokenizer(str(folder)))]
    if ids[0] != ids[1]:
        raise RuntimeError("the exported folder's tokenizer gives other ids than the checkpoint's")


def _check_network(network: PreTrainedModel, model_class: str, folder: Path, link: Link) -> None:
    with _quiet_transformers():
        loaded, report = getattr(transformers, model_class).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=network.config._attn_implementation,
            output_loading_info=True,
        )
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise RuntimeError(f"the exported folder doesn't hold the weights that {model_class} wants: {report}")
    inputs = _probe_inputs(network, link)
    with torch.inference_mode(), _quiet_transformers():  # the probe may hold the padding id
        pairs = list(zip(_tensors(network, inputs), _tensors(loaded.eval(), inputs), strict=True))
    difference = max(float((a - b).nan_to_num().abs().max()) for a, b in pairs)
    if not all(torch.allclose(a, b, rtol=0, atol=TOLERANCE, equal_nan=True) for a, b in pairs):
        raise RuntimeError(f"the exported folder gives other logits than the checkpoint (by {difference:.1e})")


def _probe_inputs(network: PreTrainedModel, link: Link) -> dict[str, Tensor]:
    """Two rows of at most 16 ids, from the whole vocabulary."""
    length = min(16, link.max_length)
    ids = (torch.arange(2 * length) * 7919 % link.vocabulary).view(2, length)  # a prime: they repeat late
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if network.config.is_encoder_decoder else {})


def _tensors(network: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for value in network(**inputs).to_tuple() if isinstance(value, Tensor)]


def _mark(folder: Path, facts: Mapping[str, Any], checkpoint: Path) -> None:
    origin = {
        "version": version("ptm-lightning"),
        "task": facts[KEY]["task"],
        "checkpoint": checkpoint.name,
        "step": facts["global_step"],
        "files": sorted(_contents(folder)),
    }
    (folder / MARKER).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def _contents(folder: Path) -> set[str]:
    """Its files and folders, and what is in these, by their path in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# The folder's place


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _clean_up(target: Path) -> None:
    """Puts right what a kill has left: a half-written folder, or the old one between two renames."""
    shutil.rmtree(temporary_path(target), ignore_errors=True)
    old = _old(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)


def _check_target(target: Path) -> None:
    """Refuses to replace what isn't ours, or what someone has added to."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"--output {target}: is a file; name a folder")
    names = _contents(target)
    if names and MARKER not in names:
        raise UserError(f"--output {target}: holds something else than an export; name another folder")
    try:
        foreign = names - {MARKER, *json.loads((target / MARKER).read_text())["files"]} if names else set()
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--output {target}: its {MARKER} is damaged; name another folder") from None
    if foreign:
        raise UserError(f"--output {target}: holds files of yours ({', '.join(sorted(foreign))}); name another folder")


def _replace(fresh: Path, target: Path) -> None:
    """Puts the new folder in the place of the old one, for good."""
    rights = (fresh / MARKER).stat().st_mode
    for path in (path for path in fresh.rglob("*") if path.is_file()):
        path.chmod(rights)  # safetensors hides its file from other users, whatever the umask
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    for inside in (path for path in fresh.rglob("*") if path.is_dir()):
        sync_folder(inside)
    sync_folder(fresh)
    old = _old(target)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(fresh, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _clear_errors(target: Path) -> Iterator[None]:
    """One message when the system refuses to write, also where a library hides its error in a text."""
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise UserError(f"{target}: no space left to write the model; make room or name another folder") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{target}: can't be written ({os.strerror(error.errno)}); name another folder") from error
        raise
