"""Tiny encoder-decoders for span corruption, and a task that has met its data."""

from pathlib import Path
from typing import Any

from answering import trainer_for
from ptm_lightning.tasks import SpanCorruption, SpanCorruptionData

TINY: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "num_heads": 2, "num_layers": 1, "d_ff": 64},
    "bart": {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    },
}  # fmt: skip
TEXT = {
    "data": {"predict": None, "text": ["the <extra_id_0> sees a <extra_id_1> .", "<extra_id_0> is in the garden"]},
}


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, **data: Any
) -> tuple[SpanCorruption, SpanCorruptionData]:
    arguments = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 600}
    module = SpanCorruptionData(**(arguments | {"validation_share": 0.1} | data))
    options: dict[str, Any] = {"architecture": "t5"} | (task or {})
    options["overrides"] = TINY[options["architecture"]] | options.get("overrides", {})
    model = SpanCorruption(**options)
    trainer_for(tmp_path, 0).fit(model, module)
    return model, module
