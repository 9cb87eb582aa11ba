"""A tiny XLNet that has met its data."""

from pathlib import Path
from typing import Any

from answering import trainer_for
from ptm_lightning.tasks import PermutationLM, PermutationLMData

TINY = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, precision: Any = "32-true", **data: Any
) -> tuple[PermutationLM, PermutationLMData]:
    """A task that has met its data and takes steps if asked to."""
    task = task or {}
    steps = task.pop("steps", 0)
    arguments = {
        "train": [str(corpus)],
        "vocab_size": 600,
        "max_length": 47,
        "batch_tokens": 600,
        "validation_share": 0.1,
    }
    module = PermutationLMData(**(arguments | data))
    model = PermutationLM(**({"overrides": TINY} | task))
    trainer_for(tmp_path, steps, precision=precision).fit(model, module)
    return model, module


def first_batch(data: PermutationLMData) -> Any:
    return next(iter(data.train_dataloader()))
