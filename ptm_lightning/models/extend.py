"""A network's vocabulary grows: each new token begins as the mean of the pieces that stood for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptm_lightning.errors import UserError


def extend_vocabulary(network: PreTrainedModel, new_tokens: Mapping[str, Sequence[int]], first: int) -> None:
    """Gives new tokens rows in the input embeddings, and in the output embeddings and their bias.

    A row is the mean of the rows of the token's pieces; so its logit is at first the mean of their logits. Rows that
    the network has to spare are used.

    Args:
        network: The network, changed in place.
        new_tokens: By token, the ids of its pieces; in the order of the new ids.
        first: The id of the first new token.

    Raises:
        UserError: The network's embeddings can't be extended.
    """
    rows = _embeddings(network).weight.shape[0]
    size = max(rows, first + len(new_tokens))
    with torch.random.fork_rng(devices=[]):  # the library draws rows that are then replaced
        network.resize_token_embeddings(size, mean_resizing=False)
    tables = _tables(network)
    if any(len(table) != size for table in tables):
        raise UserError(
            f"--data.new_words: transformers can't extend the vocabulary of a {network.config.model_type}; leave it out"
        )
    with torch.no_grad():
        for table in tables:
            for i, pieces in enumerate(new_tokens.values()):
                table[first + i] = table[list(pieces)].mean(dim=0)


def _embeddings(network: PreTrainedModel) -> nn.Embedding:
    found: Any = network.get_input_embeddings()
    embeddings: nn.Embedding = found
    return embeddings


def _tables(network: PreTrainedModel) -> list[Tensor]:
    """The parameters with a row for each token; tied ones once."""
    output: Any = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    found = [_embeddings(network).weight, getattr(output, "weight", None), getattr(output, "bias", None)]
    return list({id(table): table for table in found if table is not None}.values())


@contextmanager
def only_ids(network: PreTrainedModel, size: int) -> Iterator[None]:
    """For a while, the network predicts only the first `size` ids: what it was before its vocabulary was extended."""
    output: Any = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = output.register_forward_hook(lambda module, inputs, logits: logits[..., :size])
    try:
        yield
    finally:
        hook.remove()
