"""What tasks with a masked language model share: its guesses, and texts with their masks filled."""

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch

GUESSES = 5


def example_with_mask(tokenizer: PreTrainedTokenizerFast | None) -> str | None:
    """A text with a mask to fill, to try a model with; None without a mask token."""
    mask = tokenizer.mask_token if tokenizer is not None else None
    return f"Returns a {mask} of the given object." if mask else None


def masked_examples(logits: Tensor, batch: Batch, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, str]]:
    """Rows of a batch as text, with the targets and the best guesses for them.

    Args:
        logits: (N, vocabulary).
        batch: R rows with N targets.
        tokenizer: Of the batch.

    Returns:
        R rows of columns.
    """
    losses = functional.cross_entropy(logits, batch["targets"], reduction="none")
    guesses, width = logits.argmax(dim=-1), batch["input_ids"].shape[1]
    examples = []
    for row, (ids, real) in enumerate(zip(batch["input_ids"], batch["document_ids"] > 0, strict=True)):
        mine = batch["target_index"] // width == row
        examples.append(
            {
                "text": str(tokenizer.decode(ids[real])),
                "targets": ", ".join(tokenizer.convert_ids_to_tokens(batch["targets"][mine].tolist())),
                "guesses": ", ".join(tokenizer.convert_ids_to_tokens(guesses[mine].tolist())),
                "loss": f"{float(losses[mine].mean()):.3f}",
            }
        )
    return examples


def fill_masks(logits: Tensor, batch: Batch, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """The best guesses for each mask token, and the text with the first ones filled in.

    Args:
        logits: (N, vocabulary) at the mask tokens.
        batch: R texts to predict for.
        tokenizer: Of the batch.

    Returns:
        R rows: id, text, prediction, guesses.
    """
    best = logits.softmax(dim=-1).topk(min(GUESSES, logits.shape[-1]))
    row = batch["target_index"] // batch["input_ids"].shape[1]
    results = []
    for i, (id_, text) in enumerate(batch["texts"]):
        mine = (row == i).nonzero().flatten().tolist()
        guesses = [
            [
                {"token": str(tokenizer.decode([token])).strip(), "probability": score}
                for token, score in zip(best.indices[n].tolist(), best.values[n].tolist(), strict=True)
            ]
            for n in mine
        ]
        filled = text
        for guess in guesses:
            filled = filled.replace(tokenizer.mask_token, guess[0]["token"], 1)
        results.append({"id": id_, "text": text, "prediction": filled, "guesses": guesses})
    return results
