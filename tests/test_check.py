"""`check` passes for sound objectives with any tokenizer and language, and names planted faults in words."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ptm_lightning.tasks.causal_lm import NextTokenCollate
from ptm_lightning.tasks.masked_lm import MaskedLM, MaskedLMData

from ptm_lightning.__main__ import main
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.module import TextData
from ptm_lightning.models import inputs
from ptm_lightning.plugins import find_class
from ptm_lightning.presets import read_layer
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

SUBJECTS, VERBS, PLACES = (
    ("我们", "老师", "他的朋友", "Dr. Li", "小猫"),
    ("喜欢", "看见了", "没有找到"),
    ("学校", "河边", "3.14号楼"),
)
ENGLISH = "Mr. Smith's café doesn't sell “naïve” tea, e.g. No. 5. It costs $3.14! 🙂 Cafe\u0301 {} opens at {}."


def chinese(number: int) -> str:
    who, does, where = SUBJECTS[number % 5], VERBS[number % 3], PLACES[number // 2 % 3]
    return f"{who}{does}{where}的书。第{number}个人说:“你好!👍🏽”然后,{who}走了。\n明天再来吗?好的。"


@pytest.fixture(scope="module", params=["english", "chinese"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    line = chinese if request.param == "chinese" else (lambda n: ENGLISH.format(n, n % 13))
    path = tmp_path_factory.mktemp("check") / f"{request.param}.txt"
    path.write_text("\n\n".join(line(n) + " " + line(n * 7) for n in range(400)), encoding="utf-8")
    return path


SMALL = ["--data.vocab_size=400", "--data.max_length=32", "--data.batch_tokens=1024"]


def size_of(task: str, architecture: str | None = None) -> str:
    return f"--model.overrides={json.dumps(tiny(architecture or find_class(task, Task, '--model').architecture))}"


def run(text: Path, *more: str, task: str = "MaskedLM") -> int:
    return main(["check", "--model", task, f"--data.train={text}", *SMALL, size_of(task), *more])


def failed(out: str) -> list[str]:
    return [line[7:].split("  ")[0] for line in out.splitlines() if line.startswith("FAILED")]


PRESETS = {
    "bert": 11, "roberta": 9, "albert": 11, "gpt": 4, "xlnet": 5, "t5": 9, "bart": 13, "electra": 9, "ul2": 17,
}  # fmt: skip
"""By preset, how many lines its table has; BERT's and ALBERT's with two of the pairs beside those of the masks."""


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_its_word(text: Path, preset: str, algorithm: str, capsys: pytest.CaptureFixture[str]):
    layer = read_layer(preset).values["model"]
    size = size_of(layer["class_path"], layer.get("architecture"))
    flags = [f"--data.train={text}", f"--data.tokenizer_algorithm={algorithm}", *SMALL, size]
    status = main(["check", "--config", preset, *flags])
    table = capsys.readouterr().out
    assert status == 0, table
    assert table.count("\nok ") == PRESETS[preset] == table.count("\n") - 1, table


@pytest.mark.parametrize(
    ("masking", "layout", "algorithm"),
    [("word", "packed", "bpe"), ("span", "rows", "unigram"), ("ngram", "blocks", "wordpiece")],
)
def test_masked_units_keep_their_word(
    text: Path, masking: str, layout: str, algorithm: str, capsys: pytest.CaptureFixture[str]
):
    flags = [f"--data.tokenizer_algorithm={algorithm}", f"--data.masking={masking}", f"--data.layout={layout}"]
    assert run(text, *flags) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("\nok ") == 9


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_causal_lm_keeps_its_word(text: Path, layout: str, capsys: pytest.CaptureFixture[str]):
    assert run(text, f"--data.layout={layout}", task="CausalLM") == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("\nok ") == 4


def test_a_target_that_is_no_next_token_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = NextTokenCollate.__call__

    def shifted_twice(self: NextTokenCollate, pieces: Pieces) -> Batch:
        batch = right(self, pieces)
        batch["targets"] = batch["targets"].roll(-1)
        return batch

    monkeypatch.setattr(NextTokenCollate, "__call__", shifted_twice)
    assert run(corpus, task="CausalLM") == 1
    assert "FAILED targets that are not the next token" in capsys.readouterr().out


def test_a_network_without_a_causal_mask_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("ptm_lightning.tasks.causal_lm.sees_later_places", lambda network: False)
    size = f"--model.overrides={json.dumps(tiny('roberta'))}"
    assert run(corpus, "--model.architecture=roberta", size, task="CausalLM") == 1
    assert "FAILED predictions that see what they may not" in capsys.readouterr().out


def faulty(change: Callable[[MaskCollate, Pieces, Batch], None]) -> Callable[[MaskCollate, Pieces], Batch]:
    right = MaskCollate.__call__

    def collate(self: MaskCollate, pieces: Pieces) -> Batch:
        batch = right(self, pieces)
        change(self, pieces, batch)
        return batch

    return collate


def mask_the_first_token(self: MaskCollate, pieces: Pieces, batch: Batch) -> None:
    places = torch.arange(0, batch["input_ids"].numel(), batch["input_ids"].shape[1])
    batch["targets"] = torch.cat([batch["input_ids"].view(-1)[places], batch["targets"]])
    batch["target_index"] = torch.cat([places, batch["target_index"]])


def shift_the_targets(self: MaskCollate, pieces: Pieces, batch: Batch) -> None:
    batch["targets"] = batch["targets"].roll(1)


def keep_all(self: MaskCollate, pieces: Pieces, batch: Batch) -> None:
    batch["input_ids"].view(-1)[batch["target_index"]] = batch["targets"]


def drop_half(self: MaskCollate, pieces: Pieces, batch: Batch) -> None:
    half = slice(0, len(batch["targets"]) // 2)
    batch["target_index"], batch["targets"] = batch["target_index"][half], batch["targets"][half]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (mask_the_first_token, "special tokens among the targets, or drawn"),
        (shift_the_targets, "targets that are not the text"),
        (keep_all, "targets that become the mask token"),
        (drop_half, "tokens changed that are no targets"),
    ],
)
def test_faults_of_the_noise_are_named(
    fault: Callable[[MaskCollate, Pieces, Batch], None],
    said: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(MaskCollate, "__call__", faulty(fault))
    assert run(corpus) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert any(said in line for line in failed), failed


def test_torn_words_are_named(corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    right = MaskCollate.__call__

    def torn(self: MaskCollate, pieces: Pieces) -> Batch:
        return right(dataclasses.replace(self, unit="token"), pieces)

    monkeypatch.setattr(MaskCollate, "__call__", torn)
    assert run(corpus, "--data.masking=word") == 1
    assert "words or spans torn" in [
        line[7:].split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")
    ]


def test_a_leak_between_documents_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = inputs.attention_mask

    def open_mask(config: Any, document_ids: torch.Tensor, dtype: torch.dtype, **kwargs: Any) -> Any:
        return right(config, (document_ids > 0).long(), dtype, **kwargs)

    monkeypatch.setattr(inputs, "attention_mask", open_mask)
    assert run(corpus, "--data.layout=packed", "--data.split_text=line") == 1
    out = capsys.readouterr().out
    assert "FAILED predictions that see what they may not" in out
    assert "moves by" in out


class SilentData(MaskedLMData):
    """No findings of its own."""

    findings = TextData.findings


class SilentLM(MaskedLM):
    """An objective that says nothing of its noise."""

    data_class = SilentData


def test_an_objective_without_findings_is_held_to_its_sight(corpus: Path, capsys: pytest.CaptureFixture[str]):
    assert run(corpus, "--data.layout=packed", task="SilentLM") == 0
    assert capsys.readouterr().out.count("\nok ") == 1
