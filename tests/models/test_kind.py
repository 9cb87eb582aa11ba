"""Pretrained networks of the wrong kind are named as such, before their tokenizers are looked at."""

from pathlib import Path

import pytest
from ptm_lightning.tasks import CausalLM, Denoising, MaskedLM, SpanCorruption

from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.models.build import build_network
from ptm_lightning.models.config import build_config
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

AUTO = {"gpt2": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


@pytest.mark.parametrize(
    ("task", "architecture", "named"),
    [
        (MaskedLM, "gpt2", "ModelForMaskedLM of gpt2; take bert, roberta, albert, "),
        (MaskedLM, "t5", "ModelForMaskedLM of t5; take bert, roberta, albert, "),
        (Denoising, "gpt2", "ModelForSeq2SeqLM of gpt2; take t5, bart, mbart, "),
        (SpanCorruption, "bert", "ModelForSeq2SeqLM of bert; take t5, bart, mbart, "),
        (CausalLM, "t5", "ModelForCausalLM of t5; take gpt2, "),
    ],
)
def test_a_backbone_of_another_kind(tmp_path: Path, task: type[Task], architecture: str, named: str):
    tokenizer = train_tokenizer(["some text of a few words"], "wordpiece", 60, 32)
    ids = {"pad": 0, "eos": 1, "bos": 1}
    config = build_config(architecture, "tiny", tiny(architecture), vocab_size=60, max_length=32, special_ids=ids)
    build_network(AUTO[architecture], config, 0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError) as raised:
        task(backbone=str(tmp_path)).tokenizer()
    assert str(raised.value).startswith(f"--model.backbone {tmp_path}: transformers has no {named}")
    assert len(str(raised.value)) - len(str(tmp_path)) < 250
