"""The bytes of masked tokens, against loops over the text."""

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLM, MaskedLMData
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.store import TokenStore, build_store
from ptm_lightning.data.token_bytes import bytes_by_id, said_bytes
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.testing_case import tiny

TEXTS = [
    "The naïve cat's 3 dogs saw Zoë, 北京 and 😀 emoji.",
    "今天天气很好。我们去公园。",
    "It cost 5.50 €; she didn't pay",
]
ALGORITHMS: list[Algorithm] = ["wordpiece", "bpe", "gpt2", "unigram", "xlnet"]


def stored(algorithm: Algorithm, folder: Path) -> tuple[PreTrainedTokenizerFast, TokenStore]:
    tokenizer = train_tokenizer(TEXTS * 5, algorithm, 340, 64)
    build_store(TEXTS, raw(tokenizer), folder)
    return tokenizer, TokenStore.open(folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_tokens_stand_for_the_whole_text(algorithm: Algorithm, tmp_path: Path):
    tokenizer, store = stored(algorithm, tmp_path / "store")
    table = bytes_by_id(tokenizer, store)
    assert table[store.tokens].sum() == pytest.approx(sum(len(text.encode()) for text in TEXTS))
    assert (table >= 0).all()
    assert not said_bytes(tokenizer)[tokenizer.all_special_ids].any()


@pytest.mark.parametrize("algorithm", ["bpe", "gpt2"])
def test_byte_level_tokens_say_exactly_their_bytes(algorithm: Algorithm, tmp_path: Path):
    tokenizer, store = stored(algorithm, tmp_path / "store")
    said = said_bytes(tokenizer)
    for i, text in enumerate(TEXTS):
        ids = store.tokens[store.offsets[i] : store.offsets[i + 1]]
        shown = len(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False).encode())
        assert said[ids].sum() == shown
        assert shown - len(text.encode()) in (0, 1)  # a space may be put in front


def test_sentencepiece_tokens_say_their_spaces(tmp_path: Path):
    tokenizer, store = stored("unigram", tmp_path / "store")
    pieces = tokenizer.convert_ids_to_tokens(store.tokens.tolist())
    expected = [0 if piece == tokenizer.unk_token else len(piece.replace("▁", " ").encode()) for piece in pieces]
    assert said_bytes(tokenizer)[store.tokens].tolist() == expected


def test_wordpieces_own_the_space_before_a_word(tmp_path: Path):
    tokenizer, _ = stored("wordpiece", tmp_path / "store")
    said = said_bytes(tokenizer)
    for text in ("the cat saw dogs", "it didn't pay"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        words = 1 + text.count(" ") + text.count("'")  # the 't' after the apostrophe can't be told from a word
        assert said[ids].sum() == len(text.replace(" ", "")) + words
    ids = tokenizer("今天。", add_special_tokens=False)["input_ids"]
    assert said[ids].sum() == len("今天。".encode())


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_a_batch_counts_the_bytes_of_its_targets(algorithm: Algorithm, corpus: Path):
    data = MaskedLMData(
        train=[str(corpus)], tokenizer_algorithm=algorithm, vocab_size=600, max_length=48, batch_tokens=600,
        validation_share=0.3, validation_mask_rate=0.3,
    )  # fmt: skip
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    Trainer(max_steps=0, accelerator="cpu", num_sanity_val_steps=0, **silent).fit(
        MaskedLM(overrides=tiny("bert")), data
    )
    store, table = data.corpus.validation, said_bytes(data.hf_tokenizer)
    factor = store.info["bytes"] / sum(float(table[i]) for i in store.tokens.tolist())
    batches = list(data.val_dataloader())
    for batch in batches:
        assert batch["bytes"] == pytest.approx(factor * sum(float(table[i]) for i in batch["targets"].tolist()))
    per_token = sum(batch["bytes"] for batch in batches) / sum(len(batch["targets"]) for batch in batches)
    assert per_token == pytest.approx(store.bytes_per_token, rel=0.05)


def test_a_random_choice_of_tokens_expects_the_mean(tmp_path: Path):
    tokenizer, store = stored("wordpiece", tmp_path / "store")
    of_token = bytes_by_id(tokenizer, store)[store.tokens]
    chosen = np.random.default_rng(0).random((20_000, len(of_token))) < 0.15
    assert (chosen @ of_token).sum() / chosen.sum() == pytest.approx(store.bytes_per_token, rel=0.01)
