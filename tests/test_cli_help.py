"""What the command line shows without training: help, lists, and batches."""

import re
from pathlib import Path

import pytest
from cli_run import SIZE

from ptm_lightning.__main__ import COMMANDS, main
from ptm_lightning.presets import preset_names


def test_inspect_shows_targets(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["inspect", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE]) == 0
    screen = capfd.readouterr().out
    for text in (
        "{[MASK]>",
        "padding",
        "targets among tokens",
        "unknown tokens",
        "near-duplicates",
        "longer than max_length",
    ):
        assert text in screen
    shares = re.findall(r"^targets (masked|replaced|kept as they are) +([\d.]+)%$", screen, re.MULTILINE)
    assert [what for what, _ in shares] == ["masked", "replaced", "kept as they are"]
    assert [float(share) for _, share in shares] == pytest.approx([80, 10, 10], abs=4)


def test_help_shows_what_a_task_says_itself_of_an_argument(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--config=translation", "--help"]) == 0
    screen = " ".join(capfd.readouterr().out.split())
    assert "with a tokenizer.json, which published Marian and M2M-100 models lack; NLLB and T5 have it." in screen
    assert "What to train on: files with a column for each language (.jsonl .csv .tsv .parquet)" in screen


@pytest.mark.parametrize("task", ["CausalLM", "PermutationLM"])
def test_inspect_speaks_of_masks_only_where_there_are_some(
    task: str, here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["inspect", "--model", task, "--data.train", str(corpus), "--data.vocab_size=600"]) == 0
    screen = capfd.readouterr().out
    assert "targets among tokens" in screen
    assert "targets masked" not in screen


def test_list_names_everything_with_a_line(capfd: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    screen = capfd.readouterr().out
    for text in ("MaskedLM ", "MaskedLMData ", "Checkpoints ", *preset_names()):
        assert text in screen


def test_help_shows_the_task_first(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", "mlm", "--help"]) == 0
    screen = capfd.readouterr().out
    assert screen.index("--model.size") < screen.index("--data.train") < screen.index("--trainer.max_steps")
    assert "Share of the tokens that become targets in training. (default: 0.15)" in screen


def test_help_shows_how_values_are_written_and_what_the_preset_gives(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", "mlm", "--help"]) == 0
    screen = capfd.readouterr().out
    for line in (
        "Set already: --max_tokens 20000000",
        "  --model.size tiny|mini|small|medium|base|large",
        "  --model.betas NUMBER NUMBER",
        "  --data.train TEXT ...",
        "  --data.columns.NAME TEXT",
        "        Its size. (default: 30522)",
        "        The value at which to clip gradients. (default: 1.0)",
    ):
        assert line in screen.splitlines()
    assert "None" not in screen


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_only_its_own_flags(command: str, capfd: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    screen = capfd.readouterr().out
    assert ("--resume" in screen) == (command == "fit")
    assert ("--checkpoint" in screen) == (command in ("validate", "test", "predict", "export"))
    assert ("--model CLASS" in screen) == (command not in ("list", "export", "compare"))


def test_the_program_helps_itself(capfd: pytest.CaptureFixture[str]):
    assert main([]) == 0
    screen = capfd.readouterr().out
    assert all(f"  {command} " in screen for command in COMMANDS)
