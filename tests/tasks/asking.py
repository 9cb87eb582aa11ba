"""A tiny network that answers questions, fitted, and its predictions."""

from pathlib import Path
from typing import Any

from ptm_lightning.tasks import QuestionAnswering, QuestionAnsweringData
from row_files import trainer, write

from ptm_lightning.testing_texts import example

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
NONE: dict[str, Any] = {"text": [], "answer_start": []}


def fitted(
    folder: Path, rows: list[dict[str, Any]] | None = None, task: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, Any]:
    """A task and its data; `settings` are of the trainer or the data."""
    limits = {name: settings.pop(name) for name in ("max_steps", "limit_val_batches") if name in settings}
    arguments = {"vocab_size": 300, "max_length": 32, "stride": 7, "validation_share": 0.2, "batch_size": 16}
    sources = [write(folder / "rows.jsonl", rows or [example(number) for number in range(60)])]
    data = QuestionAnsweringData(train=sources, **{**arguments, **settings})
    model = QuestionAnswering(overrides=TINY, **(task or {}))
    trainer(folder, **limits).fit(model, data)
    return model, data


def predicted(task: Any, folder: Path, rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    data = QuestionAnsweringData(predict=[write(folder / "asked.jsonl", rows)], **{"max_length": 32, **settings})
    return [one for batch in trainer(folder).predict(task, data) for one in batch]
