"""`--data.sentences` with a stand-in for spaCy, which is an extra: its pipeline ends a sentence at each '/'."""

import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import Denoising, DenoisingData, NextSentence, NextSentenceData

from ptm_lightning.data.module import TextData
from ptm_lightning.data.sentences import RULES, find_splitter, spans
from ptm_lightning.errors import UserError
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

TEXT = "\n\n".join(f"one two. {i} three / four five. Six {i % 7} seven / eight nine / ten {i % 5}" for i in range(60))


class Pipeline:
    def __init__(self, *names: str) -> None:
        self.pipe_names = list(names)
        self.meta = {"version": "1.2"}

    def add_pipe(self, name: str) -> None:
        self.pipe_names.append(name)

    def __call__(self, text: str) -> Any:
        assert {"sentencizer", "parser"} & set(self.pipe_names)
        ends = [i + 1 for i, character in enumerate(text) if character == "/"]
        edges = zip([0, *ends], [*ends, len(text)], strict=True)
        return SimpleNamespace(sents=[SimpleNamespace(start_char=a, end_char=b) for a, b in edges])


def blank(language: str) -> Pipeline:
    if language != "xx":
        raise ImportError(f"[E048] Can't import language {language}")
    return Pipeline()


@pytest.fixture
def spacy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("spacy")
    module.__version__ = "3.8"
    module.util = SimpleNamespace(is_package=lambda name: name == "en_small")
    module.load = lambda name, exclude: Pipeline("parser")
    module.blank = blank
    monkeypatch.setitem(sys.modules, "spacy", module)
    find_splitter.cache_clear()
    return module


@pytest.mark.parametrize("name", ["xx", "en_small"])
def test_spans_are_those_of_spacy_without_white_space(spacy: ModuleType, name: str):
    text = " one / two. three /\n / four "
    found = find_splitter(name).spans(text)
    assert [text[a:b] for a, b in found] == ["one /", "two. three /", "/", "four"]
    assert find_splitter(name).spans(" ") == []


def test_the_key_tells_splitters_and_versions_apart(spacy: ModuleType):
    keys = {find_splitter(name).key for name in (RULES, "xx", "en_small")}
    spacy.__version__ = "3.9"
    find_splitter.cache_clear()
    assert len(keys | {find_splitter("xx").key}) == 4
    assert find_splitter(RULES).spans is spans


def test_what_spacy_does_not_know_is_refused(spacy: ModuleType):
    with pytest.raises(
        UserError, match=r"--data.sentences klingon: is neither rules, nor a pipeline that is installed"
    ):
        find_splitter("klingon")


def test_without_spacy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    find_splitter.cache_clear()
    with pytest.raises(UserError, match=r"needs spaCy: pip install 'ptm_lightning\[spacy\]'"):
        find_splitter("xx")


def prepared(task: Task, data: TextData, tmp_path: Path) -> Any:
    trainer = Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, data)
    return data


def sentences_of(data: Any) -> list[str]:
    store = data.corpus.train
    edges = [*store.sentence_starts.tolist(), len(store.tokens)]
    decode = data.hf_tokenizer.decode
    return [decode(store.tokens[a:b].tolist()).strip() for a, b in pairwise(edges)]


def test_pairs_are_made_of_the_sentences_asked_for(spacy: ModuleType, tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    arguments: Any = {"train": [str(tmp_path / "text.txt")], "vocab_size": 300, "max_length": 32}
    found = {}
    for name in (RULES, "xx"):
        data = NextSentenceData(sentences=name, validation_share=0.1, **arguments)
        found[name] = sentences_of(prepared(NextSentence(overrides=tiny("bert")), data, tmp_path))
    assert sum(sentence.endswith("/") for sentence in found["xx"]) == 3 * len(found["xx"]) / 4
    assert all(sentence.endswith(".") or sentence[-1].isdigit() for sentence in found[RULES])


def test_denoising_permutes_the_sentences_asked_for(spacy: ModuleType, tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    arguments: Any = {"train": [str(tmp_path / "text.txt")], "vocab_size": 300, "max_length": 64}
    data = DenoisingData(sentences="xx", mask_rate=1e-6, validation_share=0.1, **arguments)
    prepared(Denoising(overrides=tiny("bart")), data, tmp_path)
    pieces = data.plan.chunk(0, 0).microbatch(0)
    collate = data.collator(data.corpus.train, evaluate=False)
    text = collate.rows(pieces)
    ids = text.ids[text.content][collate.infilling(text).order]
    rows = [data.hf_tokenizer.decode(ids[text.row[text.content] == row]) for row in range(text.row.max() + 1)]
    last = [row for row in rows if "/ eight nine /" not in row]
    assert len(last) > len(rows) / 3  # in another order
    for row in rows:  # the sentence without a slash has moved as a whole, and no other one is torn
        assert sum(part in row for part in ("one two.", "four five. six", "eight nine /", "ten")) == 4
    findings = list(data.findings([(pieces, collate(pieces))]))
    assert not [finding for finding in findings if finding.wrong]


def test_sentences_that_stay_in_order_need_no_splitter():
    with pytest.raises(UserError, match=r"--data.sentences: they stay in order with --data.permute_sentences false"):
        DenoisingData(sentences="rules", permute_sentences=False)
