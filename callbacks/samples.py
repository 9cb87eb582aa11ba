"""A table of what the model makes of the same validation examples, at each validation."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.errors import UserError
from ptm_lightning.log import say

WIDTH = 110
"""Characters of an example that the screen shows."""


class Samples(Callback):
    """Sends a table of examples with the model's answers to each logger that takes tables, and shows the first one.

    The examples are the first ones of some validation batches, spread evenly; validation data and their noise never
    change, so they are the same each time. What a row shows is the task's to say, by its method `examples`. Without a
    logger that has `log_table`, nothing is done.

    Args:
        count: Rows of the table.
        batches: From how many validation batches they are taken. Each costs one more forward pass.
    """

    def __init__(self, count: int = 20, batches: int = 4) -> None:
        if count < 1 or batches < 1:
            raise UserError(f"Samples takes {count} rows from {batches} batches; at least 1 of each is needed")
        self.count = count
        self.batches = batches
        self._rows: list[dict[str, Any]] = []
        self._chosen: dict[int, int] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Chooses the batches."""
        self._rows, self._chosen = [], {}
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_table")]
        if trainer.sanity_checking or not trainer.is_global_zero or not loggers:
            return
        if not hasattr(pl_module, "examples"):
            say(f"Samples shows nothing: {type(pl_module).__name__} has no method `examples`")
            return
        self._chosen = spread(self.count, self.batches, trainer.num_val_batches[0])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Asks the task what it makes of a chosen batch."""
        if dataloader_idx == 0 and batch_idx in self._chosen:
            self._rows += pl_module.examples(batch)[: self._chosen[batch_idx]]  # type: ignore[operator]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sends the table."""
        if not self._rows:
            return
        columns = list(dict.fromkeys(column for row in self._rows for column in row))  # a mixture's rows differ
        data = [[row.get(column, "") for column in columns] for row in self._rows]
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table("val/samples", columns=columns, data=data, step=trainer.global_step)
        say("\n".join(f"  {column:<10}{one_line(text)}" for column, text in self._rows[0].items()))


def one_line(text: Any) -> str:
    """The text without line breaks; of a long one the beginning and the end."""
    words = " ".join(str(text).split())
    return words if len(words) <= WIDTH else f"{words[: WIDTH // 2]} … {words[-WIDTH // 2 :]}"


def spread(count: int, batches: int, available: float) -> dict[int, int]:
    """How many rows to take from which batches.

    Args:
        count: Rows in all.
        batches: Batches in all.
        available: How many batches there are; infinite if that isn't known.

    Returns:
        Batch index to rows: the first batches if their number isn't known, else evenly spread ones.
    """
    used = int(min(count, batches, available))
    stride = available / used if used and available != float("inf") else 1
    return {int(i * stride): count // used + (i < count % used) for i in range(used)}
