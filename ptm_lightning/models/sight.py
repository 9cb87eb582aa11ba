"""Whether a network's predictions depend on what comes later in a row."""

import torch
from transformers import PreTrainedModel

from ptm_lightning.errors import UserError
from ptm_lightning.models.build import max_positions

PLACES = 8


def refuse_sight(network: PreTrainedModel, others: str = "") -> None:
    """Refuses a network that isn't causal, and would see what it is to say.

    Args:
        network: The network.
        others: What else could be taken.

    Raises:
        UserError: Its predictions see later tokens.
    """
    if sees_later_places(network):
        raise UserError(
            f"--model.architecture {network.config.model_type}: its predictions see later tokens; "
            f"take a causal one, such as gpt2, llama or qwen3{others}"
        )


@torch.no_grad()
def sees_later_places(network: PreTrainedModel) -> bool:
    """Whether another last token changes the logits before it, as in every network that isn't causal.

    Weights that are yet to be loaded may be anything, and logits no numbers: these are equal where both are none.

    Args:
        network: A network with a language-modelling head. Its mode is kept.
    """
    training = network.training
    network.train(False)
    places = min(PLACES, max_positions(network) or PLACES)
    ids = torch.arange(places, device=network.device)[None] % network.config.vocab_size
    other = ids.clone()
    other[0, -1] = 0
    before, after = (
        network(input_ids=each, attention_mask=torch.ones_like(each)).logits[0, :-1] for each in (ids, other)
    )
    network.train(training)
    largest = before[before.isfinite()].abs().amax() if before.isfinite().any() else before.new_zeros(())
    return not torch.allclose(before, after, rtol=0, atol=1e-5 * float(largest) + 1e-8, equal_nan=True)
