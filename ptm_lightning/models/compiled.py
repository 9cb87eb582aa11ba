"""A network's layers, compiled where they stand: the names of weights, checkpoints and copies stay as they are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ptm_lightning.errors import UserError
from ptm_lightning.models.rows import LAST_LAYERS

BACKEND = "inductor"
VARIANTS = 32
"""How often the code of layers may be compiled anew: an encoder's, a decoder's first and its others, with and without a
mask, in training and evaluation, for one width and for all. torch would give up after 8."""


def compile_all(networks: Iterable[PreTrainedModel], data: Any) -> None:
    """Compiles the layers of some networks for what a data module lays out: rows of one width, or ragged ones."""
    for network in networks:
        compile_layers(network, ragged=getattr(data, "layout", "rows") == "rows")


def compile_layers(network: PreTrainedModel, *, ragged: bool) -> None:
    """Lets torch compile each repeated layer when it is first called; layers of the same code share what is compiled.

    The last layer of `LAST_LAYERS` is left out: a compiled layer wouldn't see the hooks that `only_rows` puts on.

    Args:
        network: Changed in place; a copy of it isn't compiled.
        ragged: Whether rows are of many widths from the beginning. Else it is compiled for the first width, and, if
            another one comes, once more for all.

    Raises:
        UserError: There are no layers that can be.
    """
    layers = compilable_layers(network)
    if not layers:
        raise UserError(f"--model.compiled: no layer of this {network.config.model_type} can be compiled; leave it out")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for layer in layers:
        layer.compile(backend=BACKEND, dynamic=True if ragged else None)


def compilable_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The layers that transformers knows as such, in their order."""
    layers: list[nn.Module] = [each for each in network.modules() if isinstance(each, GradientCheckpointingLayer)]
    return layers[:-1] if network.config.model_type in LAST_LAYERS else layers
