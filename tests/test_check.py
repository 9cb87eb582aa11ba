"""`check` passes for sound objectives with any tokenizer and language, and names planted faults in words."""

import gc
import json
import sys
from pathlib import Path

import pytest
from check_run import SMALL, chinese, failed, run, size_of
from ptm_lightning.tasks.masked_lm import MaskedLM, MaskedLMData

from ptm_lightning.__main__ import main
from ptm_lightning.data.module import TextData
from ptm_lightning.presets import read_layer
from ptm_lightning.testing_case import tiny

ENGLISH = "Mr. Smith's café doesn't sell “naïve” tea, e.g. No. 5. It costs $3.14! 🙂 Cafe\u0301 {} opens at {}."


@pytest.fixture(scope="module", params=["english", "chinese"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    line = chinese if request.param == "chinese" else (lambda n: ENGLISH.format(n, n % 13))
    path = tmp_path_factory.mktemp("check") / f"{request.param}.txt"
    path.write_text("\n\n".join(line(n) + " " + line(n * 7) for n in range(400)), encoding="utf-8")
    return path


PRESETS = {
    "bert": 14, "roberta": 10, "albert": 15, "gpt": 6, "xlnet": 7, "t5": 9, "bart": 13, "electra": 16, "ul2": 17,
}  # fmt: skip
"""By preset, how many lines its table has; BERT's and ALBERT's with four of the pairs beside those of the masks."""


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
    assert capsys.readouterr().out.count("\nok ") == (10 if masking == "word" else 11)


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_causal_lm_keeps_its_word(text: Path, layout: str, capsys: pytest.CaptureFixture[str]):
    assert run(text, f"--data.layout={layout}", task="CausalLM") == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("\nok ") == 6


PLUGIN = '''
"""Tells the last token of each row, in whose place the mask stands, from those before it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from ptm_lightning import Task, Term, TextData
from ptm_lightning.data.batch import Batch, as_batch, frame_rows
from ptm_lightning.data.layout import Pieces
from ptm_lightning.findings import Finding, faults
from torch.nn import functional


def hide_last(pieces: Pieces, *, store, frame, pad_id: int, mask_id: int, hides: bool) -> Batch:
    rows = frame_rows(pieces, store.tokens, frame, pad_id, isolated=True)
    last = rows.content[np.flatnonzero(np.diff(rows.example, append=-1))]
    ids = rows.input_ids.ravel()
    targets = ids[last]
    if hides:
        ids[last] = mask_id
    return as_batch(rows, last, targets, packed=False, counts={"last": len(last)})


class LastTokenData(TextData):
    """Rows without their last token."""

    hides: bool = True
    """Whether it is hidden."""

    def collator(self, store, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        known = self.hf_tokenizer
        ids = {"pad_id": known.pad_token_id, "mask_id": known.mask_token_id}
        return partial(hide_last, store=store, frame=self.frame, hides=self.hides, **ids)

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        mask = self.hf_tokenizer.mask_token_id
        shown = [ids for _, batch in seen for ids in batch["input_ids"].flatten()[batch["target_index"]] if ids != mask]
        yield faults("last tokens that are shown", self.hf_tokenizer.convert_ids_to_tokens(shown))


class LastToken(Task):
    """Says the last token of a text."""

    data_class = LastTokenData
    auto_class = "AutoModelForCausalLM"
    architecture: str = "gpt2"

    def terms(self, batch: Batch):
        logits = self.logits_at_targets(batch)
        return {"last": Term(functional.cross_entropy(logits, batch["targets"], reduction="sum"), len(logits))}

    def hidden_from(self, batch: Batch, number: int) -> torch.Tensor:
        hidden = super().hidden_from(batch, number)
        row, place = divmod(int(batch["target_index"][number]), hidden.shape[1])
        hidden[row, place + 1 :] = True
        return hidden
'''


def test_an_objective_of_another_package_is_held_to_its_words(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "last_token.py").write_text(PLUGIN)
    flags = ["check", "--plugin", str(tmp_path / "last_token.py"), "--model", "LastToken", f"--data.train={corpus}"]
    small = {name: [*SMALL, f"--model.overrides={json.dumps(tiny(name))}"] for name in ("gpt2", "bert")}
    try:
        assert main([*flags, *small["gpt2"]]) == 0, capsys.readouterr().out
        assert capsys.readouterr().out.count("\nok ") == 2
        assert main([*flags, *small["gpt2"], "--data.hides=false"]) == 1
        assert failed(capsys.readouterr().out) == ["last tokens that are shown"]
        assert main([*flags, *small["bert"], "--model.architecture=bert"]) == 1
        assert failed(capsys.readouterr().out) == ["predictions that see what they may not"]
    finally:
        sys.modules.pop("last_token", None)
        gc.collect()  # tests that look at all classes don't find these


class SilentData(MaskedLMData):
    """No findings of its own."""

    findings = TextData.findings


class SilentLM(MaskedLM):
    """An objective that says nothing of its noise."""

    data_class = SilentData


def test_an_objective_without_findings_is_held_to_its_sight(corpus: Path, capsys: pytest.CaptureFixture[str]):
    assert run(corpus, "--data.layout=packed", task="SilentLM") == 0
    assert capsys.readouterr().out.count("\nok ") == 1
