"""Checkpoints of tiny tasks, to be exported."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from ptm_lightning.tasks import MaskedLM
from transformers import PreTrainedModel

from ptm_lightning.checkpoint import SafeCheckpointIO
from ptm_lightning.data.tokenizer import to_text
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.link import Link
from ptm_lightning.task import Task

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = "the cat sat on the mat and the dog sat on the cat, so the mat was not the place to be for a cat or a dog. "
ROLES = ("pad", "mask", "cls", "sep", "bos", "eos", "unk")


class Labels(Task):
    """Classifies texts."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    data_class = MaskedLM.data_class


def link(algorithm: Algorithm = "wordpiece", **more: Any) -> Link:
    tokenizer = train_tokenizer([TEXT] * 5, algorithm, 320, 24)
    text, config = to_text(tokenizer)
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return Link(text, config, vocabulary=len(tokenizer), special_ids=ids, max_length=24, **more)


def trained(task: Task, its_link: Link, path: Path) -> tuple[PreTrainedModel, Path]:
    """The network and the checkpoint of a task that has met its data; the weights are random, biases too."""
    task.link = its_link
    task.configure_model()
    network = task.network
    assert network is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save(task, path)
    return network.eval(), path


def save(task: Task, path: Path, **more: Any) -> None:
    checkpoint: dict[str, Any] = {"global_step": 7, "epoch": 0, "pytorch-lightning_version": "2.6.6"}
    checkpoint |= {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)} | more
    task.on_save_checkpoint(checkpoint)
    SafeCheckpointIO().save_checkpoint(checkpoint, path)
