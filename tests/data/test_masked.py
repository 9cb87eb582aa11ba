"""Which tokens are masked together: units of rows, against loops over their texts."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLM, MaskedLMData, NextSentence, NextSentenceData
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.masked import MaskCollate, MaskedText
from ptm_lightning.data.noise import Tokens
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError
from ptm_lightning.testing_case import tiny

UNITS = ["word", "span", "ngram"]


def prepared(corpus: Path, task: Any, module: type[MaskedText], **data: Any) -> Any:
    settings: dict[str, Any] = {"vocab_size": 400, "max_length": 64, "batch_tokens": 2048, "validation_share": 0.1}
    made = module(train=[str(corpus)], **(settings | data))
    trainer = Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(task(overrides=tiny("bert")), made)
    return made


def units(data: Any, masking: MaskCollate, limit: int) -> list[np.ndarray[Any, Any]]:
    """The units of the first batches, each as places (n, 3): in the batch, in the store, and the token's id."""
    batches, found = data.train_batches, list[np.ndarray[Any, Any]]()
    for key in islice(batches.plan.from_window(0, 0), limit):
        rows = data.original_rows(batches.pieces(key))
        tokens = Tokens(rows.input_ids.ravel()[rows.content], rows.example, rows.offset, rows.draw)
        cuts = np.flatnonzero(masking.unit_starts(tokens, rows))
        found += np.split(np.stack([rows.content, rows.offset, tokens.ids], axis=1), cuts[1:])
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_no_unit_goes_over_the_end_of_a_segment(corpus: Path, unit: str):
    data = prepared(corpus, NextSentence, NextSentenceData, masking=unit)
    masking = data.masking_collator(data.corpus.train, evaluate=False)
    found = units(data, masking, 3)
    assert len(found) > 100
    assert max(len(places) for places in found) > 1
    for places in found:
        assert (np.diff(places[:, 0]) == 1).all()
        assert (np.diff(places[:, 1]) == 1).all()


@pytest.mark.parametrize("unit", UNITS)
def test_no_unit_goes_over_the_end_of_a_document_in_blocks(tmp_path: Path, unit: str):
    text = tmp_path / "words.txt"
    text.write_text("\n".join(f"un{chr(97 + i % 26)}" for i in range(4000)))
    tokenizer = train_tokenizer(["un", *"abcdefghijklmnopqrstuvwxyz"], "bpe", 300, 64)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    flags = {"layout": "blocks", "split_text": "line", "tokenizer": str(tmp_path / "tokenizer")}
    data = prepared(text, MaskedLM, MaskedLMData, masking=unit, **flags)
    store = data.corpus.train
    assert np.diff(store.offsets).max() > 1
    assert not data.frame.after  # so that documents touch
    begins = set(store.offsets.tolist())
    for places in units(data, data.masking_collator(store, evaluate=False), 3):
        assert not begins & set(places[1:, 1].tolist())


def unmarked(corpus: Path, folder: Path) -> str:
    """A BPE tokenizer whose tokens don't show where words begin."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train([str(corpus)], trainer)
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return str(folder)


def test_single_tokens_need_no_words(corpus: Path, tmp_path: Path):
    tokenizer = unmarked(corpus, tmp_path / "tokenizer")
    data = prepared(corpus, MaskedLM, MaskedLMData, tokenizer=tokenizer)
    batch = next(iter(data.train_dataloader()))
    assert 0.1 < len(batch["targets"]) / batch["counts"]["tokens"] < 0.2
    with pytest.raises(UserError, match="words can't be told apart in a BPE tokenizer"):
        prepared(corpus, MaskedLM, MaskedLMData, tokenizer=tokenizer, masking="word")


def test_words_are_those_of_the_table(corpus: Path):
    data = prepared(corpus, MaskedLM, MaskedLMData, masking="word")
    masking = data.masking_collator(data.corpus.train, evaluate=False)
    table = WordTable.of(data.hf_tokenizer)
    for places in units(data, masking, 1):
        assert not table.starts(places[:, 2])[1:].any()
