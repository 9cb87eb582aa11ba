"""How many bytes of a text each token stands for, so that losses of different vocabularies compare."""

import json

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.noise import Floats
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.words import UNSPACED, bytes_of, tokenizer_kind
from ptm_lightning.errors import UserError


def bytes_by_id(tokenizer: PreTrainedTokenizerFast, store: TokenStore) -> Floats:
    """Bytes of text for each token, which sum to the text's over all tokens of a store.

    They are in the proportion of what the tokens say. What no token says, such as capitals that became small letters or
    spaces dropped at the end, is spread over all; unknown tokens have the mean.

    Args:
        tokenizer: The one that made the store.
        store: The text.

    Returns:
        (vocabulary,)
    """
    said = said_bytes(tokenizer)
    silent = said == 0
    tokens = store.counts[~silent].sum()
    said[silent] = said @ store.counts / tokens if tokens else 1.0
    return np.asarray(said * (store.info["bytes"] / (said @ store.counts)))


def said_bytes(tokenizer: PreTrainedTokenizerFast) -> Floats:
    """Bytes (UTF-8) of the text that each token shows, the space before it included; 0 for special tokens.

    Byte-level BPE counts every byte, also of a part of a character. SentencePiece has the space as '▁'. WordPiece drops
    it: a piece without '##' owns one if it begins with a letter or digit of a script with spaces. Where a tokenizer
    doesn't show its words, all tokens count the same.

    Returns:
        (vocabulary,)
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    size = np.zeros(max(vocabulary.values()) + 1)
    try:
        kind, prefix = tokenizer_kind(json.loads(tokenizer.backend_tokenizer.to_str()))
    except UserError:
        return size + 1
    added = tokenizer.added_tokens_decoder
    for token, i in vocabulary.items():
        if kind == "prefix":
            size[i] = _piece_bytes(token, prefix)
        else:
            size[i] = len(token.encode("utf-8", "replace") if i in added else bytes_of(token, kind))
    size[tokenizer.all_special_ids] = 0
    return size


def _piece_bytes(token: str, prefix: str) -> int:
    """The text of a piece, and the space before it if it begins a word."""
    if prefix and token.startswith(prefix):
        return len(token.removeprefix(prefix).encode("utf-8", "replace"))
    spaced = token[:1].isalnum() and not UNSPACED.match(token)
    return len(token.encode("utf-8", "replace")) + spaced
