"""`check` names planted faults in the right words: each breaks one thing in a collator, a layout or a network."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from check_run import chinese, failed, run
from planted_faults import (
    FAULTS,
    NOT_THE_TEXT,
    SHORT,
    EachPiece,
    Fault,
    drop_all,
    from_the_same_document,
    given,
    set_to,
)
from ptm_lightning.tasks.replaced_token import ReplacedTokenDetection

from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.pairs import LayOutPairs
from ptm_lightning.data.words import WordTable
from ptm_lightning.models import inputs
from ptm_lightning.testing_case import tiny


@pytest.mark.parametrize(("task", "said", "fault", "flag"), [(task, *row) for task in FAULTS for row in FAULTS[task]])
def test_faults_are_named(
    task: str,
    said: str,
    fault: Fault,
    flag: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(*fault)
    assert run(corpus, *flag.split("\n" if flag else None), task=task) == 1
    out = capsys.readouterr().out
    assert said in failed(out)
    assert re.search(r"place \d", out) is None


@pytest.mark.parametrize(
    ("task", "said", "flags"),
    [("MaskedLM", "words or spans torn", ["--data.masking=word"]), ("Denoising", "words torn", [])],
)
@pytest.mark.parametrize(
    ("language", "algorithm"),
    [("english", "wordpiece"), ("english", "bpe"), ("english", "unigram"), ("chinese", "bpe"), ("chinese", "unigram")],
)
def test_a_table_of_torn_words_is_named(
    task: str,
    said: str,
    flags: list[str],
    language: str,
    algorithm: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    text = corpus
    if language == "chinese":
        text = tmp_path / "chinese.txt"
        text.write_text("\n\n".join(chinese(number) for number in range(400)), encoding="utf-8")
    monkeypatch.setattr(WordTable, "starts", EachPiece.starts)
    assert run(text, *flags, f"--data.tokenizer_algorithm={algorithm}", task=task) == 1
    assert said in failed(capsys.readouterr().out)


def test_batches_without_targets_have_nothing_to_count(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(*given(MaskCollate, drop_all))
    assert run(corpus) == 1
    out = capsys.readouterr().out
    assert {"targets that become the mask token", NOT_THE_TEXT, "words or spans torn"} <= set(failed(out))
    assert "nothing to count" in out


def test_rows_without_place_for_text_are_refused(corpus: Path, capsys: pytest.CaptureFixture[str]):
    assert run(corpus, "--data.max_length=2") == 2
    assert "--data.max_length 2: a row takes 2 special tokens and needs two of text" in capsys.readouterr().err


def test_negatives_of_the_same_document_are_told(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(LayOutPairs, "_replace_seconds", from_the_same_document)
    assert run(corpus, task="NextSentence") == 1
    assert "-> 1: of another document, but the second comes earlier in the same document" in capsys.readouterr().out


def test_rows_that_are_filled_too_often_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = tmp_path / "chinese.txt"
    text.write_text("\n\n".join(chinese(number) for number in range(400)), encoding="utf-8")
    monkeypatch.setattr(*set_to(LayOutPairs, "__call__", short_share=0.0))
    assert run(text, "--data.short_share=0.5", task="SentenceOrder") == 1
    assert failed(capsys.readouterr().out) == [SHORT]


LEAK = "predictions that see what they may not"


def test_a_network_without_a_causal_mask_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("ptm_lightning.tasks.causal_lm.refuse_sight", lambda network: None)
    size = f"--model.overrides={json.dumps(tiny('roberta'))}"
    assert run(corpus, "--model.architecture=roberta", size, task="CausalLM") == 1
    assert failed(capsys.readouterr().out) == [LEAK]


@pytest.mark.parametrize("task", ["MaskedLM", "CausalLM", "ReplacedTokenDetection"])
def test_a_leak_between_documents_is_named(
    task: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = inputs.attention_mask

    def open_mask(config: Any, document_ids: torch.Tensor, dtype: torch.dtype, **kwargs: Any) -> Any:
        return right(config, (document_ids > 0).long(), dtype, **kwargs)

    monkeypatch.setattr(inputs, "attention_mask", open_mask)
    assert run(corpus, "--data.layout=packed", "--data.split_text=line", task=task) == 1
    out = capsys.readouterr().out
    assert failed(out) == [LEAK]
    assert "' moves by" in out


@pytest.mark.parametrize("name", ["generator", "network"])
def test_a_leak_in_either_of_two_networks_is_named(
    name: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = ReplacedTokenDetection.configure_model

    def open_mask(_: Any, args: Any, kwargs: Any) -> Any:
        return args, kwargs | {"attention_mask": torch.ones_like(kwargs["attention_mask"][:, 0, 0])}

    def faulty(self: ReplacedTokenDetection) -> None:
        right(self)
        getattr(self, name).register_forward_pre_hook(open_mask, with_kwargs=True)

    monkeypatch.setattr(ReplacedTokenDetection, "configure_model", faulty)
    flags = ["--data.layout=packed", "--data.split_text=line"]
    assert run(corpus, *flags, task="ReplacedTokenDetection") == 1
    assert failed(capsys.readouterr().out) == [LEAK]


def test_a_decoder_that_sees_its_targets_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        "transformers.models.t5.modeling_t5.create_causal_mask", lambda *_, **__: torch.zeros(1, 1, 1, 1)
    )
    assert run(corpus, task="SpanCorruption") == 1
    assert failed(capsys.readouterr().out) == [LEAK]
