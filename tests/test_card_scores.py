"""The scores of test and validate stand on the model card, and all else that is on it stays."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ptm_lightning.__main__ import main
from ptm_lightning.card_scores import show_scores, with_scores
from ptm_lightning.export import MARKER
from ptm_lightning.model_card import HELD_OUT
from ptm_lightning.scores import Evaluated
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

CARD = "---\ntags: [x]\n---\n\n# bert\n\n## Metrics\n\n| val/loss | 1.0 |\n\n## Limits\n\n* None.\n"
TESTED = Evaluated("test", "d", "step=00000002.ckpt", {"test/loss": 2 / 3, "test/f1": 0.5}, {}, ["a|b.jsonl"], 1234)


def test_the_table_stands_below_the_metrics():
    before, scores, after = with_scores(CARD, TESTED).partition("As `test` measures:")
    assert before.startswith(CARD[: CARD.index("\n\n## Limits")])
    table = scores + after
    assert table.startswith("As `test` measures:")
    lines = table.splitlines()[2:]
    assert lines[:6] == [
        "|  |  |", "|---|---|", "| data | a\\|b.jsonl |", "| documents | 1,234 |", "| test/f1 | 0.5000 |",
        "| test/loss | 0.6667 |",
    ]  # fmt: skip
    assert table.endswith("\n\n## Limits\n\n* None.\n")


def test_testing_again_replaces_the_table():
    once = with_scores(CARD, TESTED)
    assert with_scores(once, TESTED) == once
    again = with_scores(once, Evaluated("test", "d", "c", {"test/loss": 0.125}, {}))
    assert "0.6667" not in again
    assert "test/f1" not in again
    assert "| test/loss | 0.1250 |" in again
    assert f"| data | {HELD_OUT} |" in again
    validated = with_scores(once, Evaluated("val", "d", "c", {"val/loss": 0.25}, {}))
    assert "0.6667" in validated
    assert "| val/loss | 0.2500 |" in validated


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card + "\n## Mine\n\nBy the sea.\n",
        lambda card: card.replace("| val/loss | 1.0 |", "| val/loss | 1.0 |\n\nMy remark.\n\n### More\n\nMine."),
        lambda card: card.replace("## Metrics", "## Results"),
        lambda card: card.replace("\n", "\r\n"),
        lambda card: "",
        lambda card: with_scores(card, TESTED).replace("<!-- end of test -->", "The end is gone."),
    ],
)
def test_what_the_user_wrote_stays(edit: Callable[[str], str]):
    edited = edit(CARD)
    once = with_scores(edited, TESTED)
    twice = with_scores(once, Evaluated("test", "d", "c", {"test/loss": 0.125}, {}))
    for card in (once, twice):
        lines = iter(card.split("\n"))
        assert all(line in lines for line in edited.split("\n"))  # each after those before it
    assert twice.count("| test/loss | 0.1250 |") == 1
    assert with_scores(twice, TESTED) == once


def exported(run: Path, card: bytes, checkpoint: str = TESTED.checkpoint) -> Path:
    model = run / "model"
    model.mkdir(parents=True)
    (model / MARKER).write_text(json.dumps({"checkpoint": checkpoint}))
    (model / "README.md").write_bytes(card)
    TESTED.write(run)
    return model / "README.md"


def test_a_card_that_is_no_utf8_keeps_its_bytes(tmp_path: Path):
    card = exported(tmp_path, b"# caf\xe9\r\n")
    show_scores(tmp_path, tmp_path / "model")
    assert card.read_bytes().startswith(b"# caf\xe9\r\n\n<!-- test")
    assert b"0.6667" in card.read_bytes()
    assert sorted(path.name for path in card.parent.iterdir()) == ["README.md", MARKER]


def test_the_export_of_another_checkpoint_gets_no_scores(tmp_path: Path):
    card = exported(tmp_path, CARD.encode(), "step=00000009.ckpt")
    show_scores(tmp_path, tmp_path / "model")
    assert card.read_text() == CARD


def test_without_an_export_or_its_card_nothing_happens(tmp_path: Path):
    card = exported(tmp_path, CARD.encode())
    card.unlink()
    show_scores(tmp_path, tmp_path / "model")
    show_scores(tmp_path, tmp_path / "nowhere")
    assert [path.name for path in card.parent.iterdir()] == [MARKER]


def test_a_card_that_cant_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    card = exported(tmp_path, CARD.encode())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ptm_lightning.card_scores.atomic", refuse)
    show_scores(tmp_path, tmp_path / "model")
    assert card.read_text() == CARD
    assert f"{card}: the scores can't be written there (Permission denied); the card stays as it was" in caplog.text


def test_through_the_command_line(here: Path):
    (here / "rows.jsonl").write_text("".join(json.dumps(example(i)) + "\n" for i in range(60)))
    size = [f"--model.overrides={json.dumps(tiny('bert'))}", "--data.vocab_size=300", "--data.max_length=32"]
    task = ["--config=classification", "--data.train=rows.jsonl", "--trainer.accelerator=cpu"]
    assert main(["fit", *task, *size, "--trainer.max_steps=2", "--run_dir=run"]) == 0
    card = Path("run/model/README.md")
    fresh = card.read_text()
    assert main(["test", "--run_dir=run", "--trainer.limit_test_batches=1"]) == 0
    assert card.read_text() == fresh  # a part of the rows is no test
    card.write_text(fresh + "\nMine.\n")
    assert main(["test", "--run_dir=run"]) == 0
    told = Evaluated.read(Path("run"), "test")
    assert told is not None
    assert f"| test/f1_macro | {told.metrics['test/f1_macro']:.4f} |" in card.read_text()
    assert f"| documents | {told.documents} |" in card.read_text()
    assert card.read_text().endswith("\nMine.\n")
    once = card.read_text()
    assert main(["test", "--run_dir=run"]) == 0
    assert card.read_text() == once
    assert main(["validate", "--run_dir=run", "--data.validation=rows.jsonl"]) == 0
    assert "| data | rows.jsonl |\n| documents | 60 |" in card.read_text()
    assert main(["export", "--run_dir=run", "--output=mine"]) == 0
    assert "As `test` measures:" in Path("mine/README.md").read_text()
