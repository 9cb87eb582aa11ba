"""Networks to start from that leave something open."""

from pathlib import Path

import pytest
from ptm_lightning.tasks import Denoising, SequenceClassification
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.link import Link
from ptm_lightning.models.start import start_network


@pytest.mark.parametrize("told", [None, 5])
def test_a_decoder_begins_as_its_network_says_or_with_padding(tmp_path: Path, told: int | None):
    tokenizer = train_tokenizer(["some text of a few words"], "wordpiece", 60, 32)
    saved = T5ForConditionalGeneration(T5Config(vocab_size=60, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2))
    saved.generation_config.decoder_start_token_id = told
    saved.save_pretrained(tmp_path)
    network = start_network(Denoising.auto_class, Denoising(backbone=str(tmp_path)), Link.of(tokenizer, max_length=32))
    assert network.config.decoder_start_token_id == (told if told is not None else saved.config.pad_token_id)


def test_a_head_that_does_not_generate_has_a_decoder_too(tmp_path: Path):
    tokenizer = train_tokenizer(["some text of a few words"], "wordpiece", 60, 32)
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=60, **sizes)).save_pretrained(tmp_path)
    task, link = SequenceClassification(backbone=str(tmp_path)), Link.of(tokenizer, max_length=32, labels=["a", "b"])
    network = start_network(task.auto_class, task, link)
    assert network.config.decoder_start_token_id == network.config.pad_token_id


def test_a_decoder_that_says_how_it_begins_is_left_alone(tmp_path: Path):
    tokenizer = train_tokenizer(["some text of a few words"], "wordpiece", 60, 32)
    config = BartConfig(vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, decoder_start_token_id=4)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    network = start_network(Denoising.auto_class, Denoising(backbone=str(tmp_path)), Link.of(tokenizer, max_length=32))
    assert network.config.decoder_start_token_id == 4
