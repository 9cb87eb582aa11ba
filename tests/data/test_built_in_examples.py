"""Built-in examples are said to be such, wherever they are trained or evaluated on."""

import json
from pathlib import Path
from typing import Any

import pytest
from ptm_lightning.tasks import MixtureData, TranslationData

from ptm_lightning.__main__ import main
from ptm_lightning.data.built_in_examples import say_built_in
from ptm_lightning.data.builtin import BUILTIN, described
from ptm_lightning.testing_case import tiny

SAID = "builtin:number_words is a built-in example: English numbers in words and the German ones, made by rule"


def test_every_example_has_a_sentence():
    found = described([f"builtin:{name}" for name in BUILTIN])
    assert len(found) == len(BUILTIN)
    assert all(text[0].isupper() and text.endswith(".") and len(text) > 40 for text in found.values())
    assert described(["corpus.txt", "builtin:nothing", "owner/builtin:python", "python"]) == {}


@pytest.mark.parametrize(
    ("sources", "stages"),
    [
        ({}, ["fit", "validate", "test"]),
        ({"validation": ["a.jsonl"]}, ["fit", "test"]),
        ({"train": ["a.jsonl"], "test": ["builtin:number_words"]}, ["test"]),
        ({"train": ["a.jsonl"], "validation": ["builtin:number_words"]}, ["fit", "validate"]),
        ({"train": ["a.jsonl"]}, []),
    ],
)
def test_stages_that_read_one(sources: dict[str, Any], stages: list[str], caplog: pytest.LogCaptureFixture):
    for stage in ("fit", "validate", "test", "predict"):
        caplog.clear()
        say_built_in(TranslationData(**sources), stage)
        assert (SAID in caplog.text) == (stage in stages), stage


def test_a_mixture_says_each_once(caplog: pytest.LogCaptureFixture):
    data = MixtureData(parts={"a": {"task": "MaskedLM"}, "b": {"task": "MaskedLM", "masking": "span"}})
    say_built_in(data, "fit")
    for module in data.modules.values():
        module.shared_tokenizer = object()  # type: ignore[assignment]
        say_built_in(module, "fit")
    said = [record.getMessage() for record in caplog.records if record.name == "ptm_lightning"]
    assert [message.split()[0] for message in said] == ["builtin:python"]


def test_on_the_screen(here: Path, capfd: pytest.CaptureFixture[str]):
    size = [f"--model.overrides={json.dumps(tiny('bart'))}", "--data.vocab_size=300", "--data.max_target_length=64"]
    task = ["--config=translation", *size, "--trainer.accelerator=cpu"]
    assert main(["inspect", *task]) == 0
    assert capfd.readouterr().err.count(SAID) == 1
    assert main(["fit", *task, "--trainer.max_steps=1", "--model.validation_answers=2", "--run_dir=run"]) == 0
    assert capfd.readouterr().err.count(SAID) == 1
    assert "| builtin:number_words | a built-in example: English" in Path("run/model/README.md").read_text()
