"""Only the rows that the loss reads: in the head for any architecture, in the last layer where its shape is known."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

LAST_LAYERS = frozenset(
    {"bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "roberta", "roformer", "xlm-roberta"}
)
"""Model types whose layers are BERT's: what `attention.output` returns for a row, the rest of the layer only maps."""


@contextmanager
def only_rows(network: nn.Module, index: Tensor) -> Iterator[None]:
    """Lets a network's head see only some rows of the last hidden state.

    Inside the context, one call of the network computes its head on N rows instead of B * T, so that its logits have
    the shape (1, N, vocabulary). The last layer of `LAST_LAYERS` computes them only, from the end of its attention on.
    The gradients are those of the dense computation. Labels must not be passed: the loss is the caller's. Heads that
    pool (next sentence, classification) still see all rows.

        with only_rows(network, index):
            logits = network(input_ids=ids).logits.squeeze(0)  # (N, vocabulary)

    Args:
        network: A transformers model with a head.
        index: Flat positions in the rows (B * T) of the encoder, or of the decoder where there is one (N,), int64.

    Yields:
        Nothing.
    """
    join = _end_of_attention(network, pools=False)
    with _in_one_call(join or _body(network), index[None], before=join is not None):
        yield


@contextmanager
def only_first_places(network: nn.Module, input_ids: Tensor) -> Iterator[None]:
    """Lets the last layer compute only the first place of each row, which is all that a classification head reads.

    Inside the context, one call of the network; those whose type isn't in `LAST_LAYERS` compute all places.

    Args:
        network: A transformers model for sequence classification.
        input_ids: (B, T)

    Yields:
        Nothing.
    """
    join = _end_of_attention(network, pools=True)
    if join is None:
        yield
        return
    rows, width = input_ids.shape
    with _in_one_call(join, torch.arange(rows, device=input_ids.device)[:, None] * width, before=True):
        yield


def parameters_of_rows(network: nn.Module) -> int:
    """How many parameters of a network's last layer `only_rows` uses for the asked rows alone."""
    if _end_of_attention(network, pools=False) is None:
        return 0
    layer = _last_layer(network)
    return sum(p.numel() for name, p in layer.named_parameters() if not name.startswith("attention.self."))


@contextmanager
def _in_one_call(target: nn.Module, index: Tensor, *, before: bool) -> Iterator[None]:
    """Puts some rows in the place of all (B, T, H), in a module's arguments or in its output: (*index.shape, H)."""
    calls = 0

    def gather(module: nn.Module, arguments: Any, output: Any = None) -> Any:
        nonlocal calls
        if module is not target:  # a copy of the network made meanwhile carries this hook too
            return output
        calls += 1
        return tuple(_gather(rows, index) for rows in arguments) if before else _replace_hidden(output, index)

    handle = target.register_forward_pre_hook(gather) if before else target.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()
    assert calls == 1, f"only some rows: a {type(target).__name__} ran {calls} times in one context"


def _end_of_attention(network: nn.Module, *, pools: bool) -> nn.Module | None:
    """The module that adds what the last layer's attention found to the layer's input, where it is known.

    Layers that are computed again for the backward pass must find the same rows: they aren't hooked.

    Args:
        network: A transformers model with a head.
        pools: Whether a pooler gets what it reads of the rows that are left.
    """
    config: Any = network.config
    if config.model_type not in LAST_LAYERS or config.chunk_size_feed_forward or config.add_cross_attention:
        return None
    if not pools and getattr(_body(network), "pooler", None) is not None:
        return None
    layer = _last_layer(network)
    join: nn.Module = layer.attention.output
    return None if layer.gradient_checkpointing else join


def _last_layer(network: nn.Module) -> Any:
    body: Any = _body(network)
    return body.encoder.layer[-1]


def _body(network: nn.Module) -> nn.Module:
    """The module whose last hidden state feeds the head."""
    config: Any = network.config
    if config.is_encoder_decoder:
        decoder: nn.Module = network.get_decoder()  # type: ignore[operator]
        return decoder
    body: nn.Module = network.base_model  # type: ignore[assignment]
    return body


def _replace_hidden(output: Any, index: Tensor) -> Any:
    """The same output, with some rows (*index.shape, H) in the place of the last hidden state (B, T, H)."""
    if isinstance(output, ModelOutput):
        assert dataclasses.is_dataclass(output)
        return dataclasses.replace(output, last_hidden_state=_gather(output["last_hidden_state"], index))
    return (_gather(output[0], index), *output[1:])


def _gather(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)
