"""A tiny summarization task that has met its data."""

from pathlib import Path
from typing import Any

from answering import trainer_for
from ptm_lightning.tasks import Summarization, SummarizationData

from ptm_lightning.testing_case import tiny


def prepared(source: Path, task: dict[str, Any] | None = None, steps: int = 0, **data: Any) -> tuple[Any, Any]:
    model = Summarization(**({"overrides": tiny("bart"), "max_new_tokens": 12} | (task or {})))
    arguments: dict[str, Any] = {"max_length": 128, "max_target_length": 40, "batch_size": 8, "vocab_size": 300}
    module = SummarizationData(train=[str(source)], **(arguments | data))
    trainer_for(source.parent, steps).fit(model, module)
    return model, module
