"""Logits only at the rows that the loss reads, for any architecture, by one forward hook put on for one call."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


@contextmanager
def only_rows(network: nn.Module, index: Tensor) -> Iterator[None]:
    """Lets a network's head see only some rows of the last hidden state.

    Inside the context, one call of the network computes its head on N rows instead of B * T, so that its logits have
    the shape (1, N, vocabulary). The gradients are those of the dense computation. Labels must not be passed: the loss
    is the caller's. Heads that pool (next sentence, classification) still see all rows.

        with only_rows(network, index):
            logits = network(input_ids=ids).logits[0]  # (N, vocabulary)

    Args:
        network: A transformers model with a head.
        index: Flat positions in the rows (B * T) of the encoder, or of the decoder where there is one (N,), int64.

    Yields:
        Nothing.
    """
    target = _body(network)
    calls = 0

    def gather(module: nn.Module, _arguments: Any, output: Any) -> Any:
        nonlocal calls
        if module is not target:  # a copy of the network made meanwhile carries this hook too
            return output
        calls += 1
        return _replace_hidden(output, index)

    handle = target.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()
    assert calls == 1, f"only_rows: the body of {type(network).__name__} ran {calls} times in one context"


def _body(network: nn.Module) -> nn.Module:
    """The module whose last hidden state feeds the head."""
    config: Any = network.config
    if config.is_encoder_decoder:
        decoder: nn.Module = network.get_decoder()  # type: ignore[operator]
        return decoder
    body: nn.Module = network.base_model  # type: ignore[assignment]
    return body


def _replace_hidden(output: Any, index: Tensor) -> Any:
    """The same output, with the rows (1, N, H) in the place of the last hidden state (B, T, H)."""
    if isinstance(output, ModelOutput):
        assert dataclasses.is_dataclass(output)
        return dataclasses.replace(output, last_hidden_state=_gather(output["last_hidden_state"], index))
    return (_gather(output[0], index), *output[1:])


def _gather(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.flatten(0, 1).index_select(0, index).unsqueeze(0)
