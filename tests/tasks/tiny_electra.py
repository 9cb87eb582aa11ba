"""A tiny ELECTRA that has met its data."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from ptm_lightning.tasks import ReplacedTokenData, ReplacedTokenDetection

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, max_steps: int = 0, **data: Any
) -> tuple[ReplacedTokenDetection, ReplacedTokenData]:
    arguments = {"vocab_size": 600, "max_length": 48, "batch_tokens": 600, "validation_share": 0.1}
    module = ReplacedTokenData(**({"train": [str(corpus)]} | arguments | data))
    model = ReplacedTokenDetection(**({"overrides": TINY} | (task or {})))
    trainer = Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model.eval(), module
