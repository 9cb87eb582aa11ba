"""What data modules of plain text refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import (
    CausalLMData,
    DenoisingData,
    MaskedLMData,
    NextSentenceData,
    PermutationLMData,
    ReplacedTokenData,
)

from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError


def batches(tmp_path: Path, corpus: Path, data_class: type[TaskData], **arguments: Any) -> list[Any]:
    data = data_class(train=[str(corpus)], vocab_size=400, **arguments)
    data.trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    data.prepare_data()
    data.setup("fit")
    return list(data.val_dataloader())


@pytest.mark.parametrize("data_class", [MaskedLMData, CausalLMData, PermutationLMData, ReplacedTokenData])
def test_the_shortest_row_has_a_target_and_one_shorter_is_refused(
    tmp_path: Path, corpus: Path, data_class: type[TaskData]
):
    assert all(len(batch["targets"]) for batch in batches(tmp_path, corpus, data_class, max_length=4, batch_size=8))
    for length in (1, 3):
        message = f"--data.max_length {length}: a row takes 2 special tokens and needs two of text; give at least 4, "
        with pytest.raises(UserError, match=message):
            batches(tmp_path, corpus, data_class, max_length=length)


@pytest.mark.parametrize("data_class", [MaskedLMData, NextSentenceData, DenoisingData, PermutationLMData])
def test_a_tokenizer_without_padding_is_refused(tmp_path: Path, corpus: Path, data_class: type[TaskData]):
    algorithm = "xlnet" if data_class is PermutationLMData else "wordpiece"
    folder = tmp_path / "tokenizer"
    train_tokenizer(corpus.read_text().split("\n\n"), algorithm, 400, 32).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "pad_token"}))
    with pytest.raises(UserError, match="the tokenizer has no padding token"):
        batches(tmp_path, corpus, data_class, tokenizer=str(folder))
