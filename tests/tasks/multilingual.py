"""Tiny networks with the tokenizers of mBART, mBART-50, NLLB and M2M-100, each with its way to mark languages."""

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, MBart50Tokenizer, MBartTokenizer, NllbTokenizer

from ptm_lightning.data.tokenizer_training import train_tokenizer

KINDS = ("mbart", "mbart50", "nllb", "m2m100")
CODES = {"mbart": ("en_XX", "de_DE"), "mbart50": ("en_XX", "de_DE"), "nllb": ("eng_Latn", "deu_Latn"),
         "m2m100": ("en", "de")}  # fmt: skip
DIMENSIONS = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
}  # fmt: skip
TEXTS = ["the cat sat on the mat", "die Katze saß auf der Matte", "a dog sees the bird", "ein Hund sieht den Vogel"]


def tokenizer_of(kind: str) -> Any:
    """The family's own class on a tiny vocabulary; M2M-100's has no fast one, and is a plain one with its tokens."""
    if kind == "m2m100":
        return train_tokenizer(TEXTS * 3, "bpe", 300, 64, ["__en__", "__de__", "__fr__"])
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "nllb":
        letters = sorted(set("".join(TEXTS)) - {" "})
        return NllbTokenizer(vocab={piece: i for i, piece in enumerate([*special, "▁", *letters])}, merges=[])
    trained = train_tokenizer(TEXTS * 3, "unigram", 80, 64)
    pieces = json.loads(trained.backend_tokenizer.to_str())["model"]["vocab"]
    own = [(piece, score) for piece, score in pieces if piece not in trained.all_special_tokens]
    make: Any = MBartTokenizer if kind == "mbart" else MBart50Tokenizer
    return make(vocab=[(name, 0.0) for name in special] + own)


def write_multilingual(kind: str, folder: Path, **config: Any) -> Any:
    """A folder as pretrained ones are; gives the tokenizer."""
    tokenizer = tokenizer_of(kind)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    start = {} if kind == "mbart" else {"decoder_start_token_id": tokenizer.eos_token_id}
    family = CONFIG_MAPPING["mbart" if kind.startswith("mbart") else "m2m_100"]
    network = AutoModelForSeq2SeqLM.from_config(
        family(**(DIMENSIONS | ids | start | {"vocab_size": len(tokenizer)} | config))
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
