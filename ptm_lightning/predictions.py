"""Predictions as JSON lines, written as they come: in the inputs' order, with as much memory as one window needs."""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer

from ptm_lightning.data.predict import Window
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.part_file import PartFile, command_of
from ptm_lightning.task import Task


class _Writer(Callback):
    """Writes each window's predictions when they are there: JSON lines, or one object of predictions by id."""

    def __init__(self, file: TextIO, part: PartFile | None = None, *, by_id: bool = False, count: int = 0) -> None:
        self.file = file
        self.part = part
        """What the file is of, where the command is to go on when it is killed."""
        self.by_id = by_id
        self.count = count

    def finish(self) -> None:
        """Writes what stands behind the last prediction."""
        if self.by_id:
            self.file.write("\n}\n" if self.count else "{}\n")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Window,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for result in outputs:
            self.file.write(self._entry(result) if self.by_id else json.dumps(result, ensure_ascii=False) + "\n")
            self.count += 1
        self.file.flush()
        if self.part is not None:
            os.fsync(self.file.fileno())
            self.part.note(batch.done)

    def _entry(self, result: dict[str, Any]) -> str:
        id_, prediction = (json.dumps(result[name], ensure_ascii=False) for name in ("id", "prediction"))
        return f"{',' if self.count else '{'}\n{id_}: {prediction}"


def write_predictions(trainer: Trainer, task: Task, data: TaskData, output: str | None, weights: str) -> None:
    """Predicts, and writes a line for each input; a .json file gets {id: prediction}, as SQuAD's scripts take it.

    Args:
        trainer: Of one process.
        task: With its weights.
        data: With what to predict for.
        output: A file, which appears when it is complete; until then it is called `<output>.partial`, and the same
            command goes on with it. None is the screen.
        weights: Where those of the task are from.

    Raises:
        UserError: There are several processes, the file can't be written, or an input can't be read.
    """
    if trainer.world_size > 1:
        raise UserError(f"--trainer.devices {trainer.world_size}: predictions are written by one process; give 1")
    if output is None:
        _predict(trainer, task, data, _Writer(sys.stdout))
        return
    path = Path(output)
    if path.is_dir():
        raise UserError(f"--output {output}: is a folder; name a file")
    part = PartFile(path.with_name(f"{path.name}.partial"), command_of(task, data, str(trainer.precision), weights))
    try:
        data.done = part.open()
    except OSError as error:
        raise UserError(f"--output {output}: can't be written ({error.strerror}); name another file") from None
    with open(part.path, "a", encoding="utf-8") as file:
        writer = _Writer(file, part, by_id=path.suffix == ".json", count=data.done.inputs)
        try:
            _predict(trainer, task, data, writer)
            writer.finish()
        except BaseException:
            if writer.count:
                say(f"the first {writer.count} predictions are in {part.path}; the same command goes on behind them")
            else:
                part.remove()
            raise
        os.fsync(file.fileno())
    part.become(path)
    print(f"{writer.count} predictions in {output}", file=sys.stderr)


def _predict(trainer: Trainer, task: Task, data: TaskData, writer: _Writer) -> None:
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    trainer.predict(task, data, return_predictions=False)
