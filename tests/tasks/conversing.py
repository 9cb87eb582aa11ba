"""What the tests of dialogue share: a file of conversations, a tiny task that has met it, and its export."""

from pathlib import Path
from typing import Any

import transformers
from answering import trainer_for, write
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import Dialogue, DialogueData
from transformers import AutoTokenizer

from ptm_lightning.export import export
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

KINDS = ("gpt2", "bart")
DATA: dict[str, Any] = {"max_length": 80, "max_target_length": 20, "batch_size": 8, "vocab_size": 300}


def rows_file(folder: Path, count: int = 60) -> Path:
    return write(folder / "talk.jsonl", [{"messages": example(i)["messages"]} for i in range(count)])


def prepared(source: Path, task: dict[str, Any] | None = None, steps: int = 0, **data: Any) -> tuple[Any, Any]:
    task = {"architecture": "gpt2", **(task or {})}
    model = Dialogue(**{"overrides": tiny(task["architecture"]), "max_new_tokens": 12, **task})
    module = DialogueData(train=[str(source)], **(DATA | data))
    saver = ModelCheckpoint(source.parent / "saved", filename="last", every_n_train_steps=max(1, steps))
    trainer_for(source.parent, steps, saver).fit(model, module)
    return model, module


def exported(folder: Path) -> tuple[Any, Any]:
    """What transformers alone loads: network and tokenizer."""
    made = export(folder / "saved" / "last.ckpt", folder / "model", Dialogue, settings={})
    config = transformers.AutoConfig.from_pretrained(made)
    kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
    return getattr(transformers, kind).from_pretrained(made).eval(), AutoTokenizer.from_pretrained(made)
