"""The tokenizer of a corpus: trained on a part of it that is said, wherever the tokenizer goes."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from ptm_lightning.data import corpus_tokenizer
from ptm_lightning.data.corpus import Corpus, prepare_corpus
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.tokenizer import from_text, to_text
from ptm_lightning.errors import UserError
from ptm_lightning.model_card import CardData, _data

TEXTS = [f"Document {i} says {i * i} words. It has {i % 7} names." for i in range(300)]


def prepared(tmp_path: Path, given: Any = None, **settings: Any) -> Corpus:
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS))
    defaults: dict[str, Any] = {
        "train": (str(tmp_path / "text.txt"),), "validation": (), "test": (), "tokenizer": None, "algorithm": "unigram",
        "vocab_size": 120, "max_length": 32, "special_tokens": (), "split_text": "blank_line", "columns": (),
        "validation_share": 0.1, "cache": tmp_path / "cache",
    }  # fmt: skip
    return prepare_corpus(CorpusSettings(**(defaults | settings)), given)


def test_a_tokenizer_of_the_whole_text_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    size = len("".join(TEXTS)) / 1000
    assert prepared(tmp_path).provenance["tokenizer trained on"] == f"{size:.1f} kB of text"
    assert "tokenizer is trained on" not in caplog.text


@pytest.mark.parametrize(("algorithm", "limit"), [("unigram", "UNIGRAM_CHARACTERS"), ("bpe", "SAMPLE_BYTES")])
def test_a_tokenizer_of_a_part_says_so_wherever_it_goes(
    algorithm: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(corpus_tokenizer, limit, 2000)
    with caplog.at_level(logging.WARNING, "ptm_lightning"):
        first = prepared(tmp_path, algorithm=algorithm, vocab_size=300)
    said = first.provenance["tokenizer trained on"]
    assert re.fullmatch(r"\d+\.\d kB of 13\.\d kB of text, spread evenly", said)
    assert f"--data.tokenizer train: a {algorithm} tokenizer is trained on {said}" in caplog.text
    caplog.clear()
    cached = prepared(tmp_path, algorithm=algorithm, vocab_size=300)
    assert "trained on" not in caplog.text
    carried = from_text(*to_text(cached.tokenizer))  # as a checkpoint does
    for corpus in (first, cached, prepared(tmp_path, carried)):
        assert corpus.provenance["tokenizer trained on"] == said
    card = CardData("", "", "", {}, 32, {}, {}, first.provenance, {}, {})
    assert f"| tokenizer trained on | {said} |" in _data(card)
    monkeypatch.setattr(corpus_tokenizer, limit, 10**6)  # another limit is another tokenizer
    assert prepared(tmp_path, algorithm=algorithm, vocab_size=300).provenance != first.provenance


def test_without_any_validation_nothing_is_read(tmp_path: Path):
    with pytest.raises(UserError, match=r"--data.validation: give a source, or hold a share out"):
        prepared(tmp_path, validation_share=0.0)
    assert not (tmp_path / "cache").exists()
