"""LoRA: small matrices that are learned beside frozen ones, by the package peft, and merged into them for export.

LoRA, 2021, https://arxiv.org/abs/2106.09685; adapters on all linear layers: QLoRA, 2023,
https://arxiv.org/abs/2305.14314
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ptm_lightning.errors import UserError, suggest

ADAPTER = "default"
"""What peft calls an adapter without a name."""


@dataclass(frozen=True)
class Lora:
    """What the adapters are like."""

    rank: int
    alpha: float
    """What they add is multiplied with alpha / rank."""
    dropout: float
    """Share of their input that is dropped."""
    targets: Sequence[str] | None
    """Names of linear layers, or their last parts; None is all."""


def add_adapters(network: PreTrainedModel, settings: Lora, beside: Callable[[str], bool], seed: int) -> None:
    """Puts adapters on linear layers, which change nothing before they are trained; all else is frozen.

    Args:
        network: As it was pretrained; one that has adapters already stays as it is.
        settings: Of the adapters.
        beside: Whether a parameter of this name is trained as a whole, such as the head's.
        seed: Of the adapters' initial weights.

    Raises:
        UserError: peft isn't installed, or there are no such layers.
    """
    if is_adapted(network):
        return
    peft = _peft()
    names = _targets(network, settings.targets, beside)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(_config(settings, names), network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_adapter(name) or beside(name))


def is_adapted(network: nn.Module) -> bool:
    """Whether a network has adapters."""
    return any(is_adapter(name) for name, _ in network.named_parameters())


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return f".{ADAPTER}." in name and ".lora_" in name


def merge_adapters(network: PreTrainedModel) -> None:
    """Adds the adapters to the weights that they stand beside; the network is then as transformers builds it."""
    peft = _peft()
    for name, module in list(network.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
            network.set_submodule(name, module.get_base_layer())
    del network.peft_config


def save_adapters(
    network: PreTrainedModel, settings: Lora, beside: Callable[[str], bool], backbone: str, folder: Path
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` puts on the network that training began with.

    Args:
        network: With its adapters.
        settings: Of the adapters.
        beside: What else was trained.
        backbone: What training began with.
        folder: Is made.
    """
    peft = _peft()
    layers = [name for name, module in network.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    whole = [name for name, _ in network.named_parameters() if beside(name)]
    config = _config(settings, layers)
    config.modules_to_save = sorted({name.rpartition(".")[0] for name in whole}) or None
    config.base_model_name_or_path = backbone
    config.inference_mode = True
    config.save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": parameter.detach().contiguous()
        for name, parameter in network.named_parameters()
        if is_adapter(name) or name in whole
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft() -> Any:
    try:
        import peft  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError("--model.lora_rank: needs peft; pip install 'ptm_lightning[lora]'") from error
    return peft


def _config(settings: Lora, names: Sequence[str]) -> Any:
    return _peft().LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=list(names)
    )


def _targets(network: PreTrainedModel, asked: Sequence[str] | None, beside: Callable[[str], bool]) -> list[str]:
    """The names of the linear layers that get adapters: none that is trained as a whole, and not the vocabulary's."""
    vocabulary = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not vocabulary and not beside(f"{name}.weight")
    ]
    if not asked:
        return linear
    for target in asked:
        if not any(_is_called(name, target) for name in linear):
            known = {name.rpartition(".")[2] for name in linear}
            raise UserError(f"--model.lora_targets {target}: no such linear layer; {suggest(target, known)}")
    return [name for name in linear if any(_is_called(name, target) for target in asked)]


def _is_called(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
