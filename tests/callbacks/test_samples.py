from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from ptm_lightning.callbacks.samples import Samples, one_line, spread
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ptm_lightning.errors import UserError


class Tables(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[str], list[list[Any]], int]] = []

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.tables.append((key, columns, data, step))


class Toy(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.asked = 0
        self.modes: set[tuple[bool, bool]] = set()
        self.draws: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.training
        self.draws.append(float(torch.rand(())))
        loss: Tensor = self.layer(batch).square().mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def examples(self, batch: Tensor) -> list[dict[str, Any]]:
        self.asked += 1
        self.modes.add((self.training, torch.is_grad_enabled()))
        return [{"text": f"{float(x):g}", "guesses": "?"} for x in batch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, callbacks: list[Samples], loggers: Any, model: LightningModule) -> None:
    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=2,
        callbacks=callbacks,  # type: ignore[arg-type]
        logger=loggers,
        default_root_dir=folder,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(torch.ones(4, 1), 2)  # type: ignore[arg-type]
    validation = DataLoader(torch.arange(12.0)[:, None], 3)  # type: ignore[arg-type]
    trainer.fit(model, train, validation)


def test_the_same_rows_at_each_validation(tmp_path: Path) -> None:
    tables, model = Tables(), Toy()
    fit(tmp_path, [Samples(count=3, batches=2)], tables, model)
    rows = [["0", "?"], ["1", "?"], ["6", "?"]]
    columns = ["text", "guesses"]
    assert tables.tables == [("val/samples", columns, rows, 2), ("val/samples", columns, rows, 4)]
    assert model.modes == {(False, False)}
    assert model.asked == 4


def test_the_first_row_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, [Samples(count=3, batches=2)], Tables(), Toy())
    said = [record.message for record in caplog.records if record.name == "ptm_lightning"]
    assert said == 2 * ["  text      0\n  guesses   ?"]


def test_a_long_text_is_shown_by_its_ends() -> None:
    assert one_line("a\n b") == "a b"
    assert one_line("a" + "b" * 200 + "c") == "a" + "b" * 54 + " … " + "b" * 54 + "c"


def test_training_goes_on_as_without_it(tmp_path: Path) -> None:
    plain, watched = Toy(), Toy()
    watched.load_state_dict(plain.state_dict())
    fit(tmp_path, [], Tables(), plain)
    fit(tmp_path, [Samples()], Tables(), watched)
    assert plain.draws == watched.draws
    assert torch.equal(plain.layer.weight, watched.layer.weight)


def test_nothing_is_asked_without_a_logger_of_tables(tmp_path: Path) -> None:
    model = Toy()
    fit(tmp_path, [Samples()], False, model)
    assert model.asked == 0


def test_a_module_without_examples_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Toy):
        examples = property()  # type: ignore[assignment]

    tables = Tables()
    fit(tmp_path, [Samples()], tables, Silent())
    assert tables.tables == []
    assert "Samples shows nothing: Silent has no method `examples`" in caplog.text


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="Samples takes 0 rows from 4 batches"):
        Samples(count=0)


@pytest.mark.parametrize(
    ("count", "batches", "available", "expected"),
    [
        (20, 4, 100, {0: 5, 25: 5, 50: 5, 75: 5}),
        (5, 4, 4, {0: 2, 1: 1, 2: 1, 3: 1}),
        (20, 4, 2, {0: 10, 1: 10}),
        (2, 4, 100, {0: 1, 50: 1}),
        (20, 4, 0, {}),
        (4, 2, float("inf"), {0: 2, 1: 2}),
    ],
)
def test_spread(count: int, batches: int, available: float, expected: dict[int, int]) -> None:
    assert spread(count, batches, available) == expected
