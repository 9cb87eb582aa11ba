"""Language tokens: how multilingual tokenizers (mBART, NLLB, M2M-100) are told what they read and write."""

import re
from typing import Any

from transformers import PreTrainedTokenizerFast

from ptm_lightning.errors import UserError

TOKEN = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3}))")
"""M2M-100's __de__; mBART's de_DE and NLLB's deu_Latn, which are their own codes."""


def language_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The tokens of languages by their codes; none if the tokenizer isn't multilingual."""
    names = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return {found[1] or found[2]: name for name in names if (found := TOKEN.fullmatch(name))}


def language_token(tokenizer: PreTrainedTokenizerFast, code: str, flag: str) -> str:
    """The token of a language; `de` is enough where the tokenizer knows it in one script or country only.

    Args:
        tokenizer: A multilingual one.
        code: The language's, as the user wrote it.
        flag: That it stands behind.

    Raises:
        UserError: The tokenizer doesn't know it.
    """
    known = language_tokens(tokenizer)
    fitting = [name for name in known if name == code] or [name for name in known if name.partition("_")[0] == code]
    if len(fitting) != 1:
        which = f"knows it as {' and '.join(fitting)}" if fitting else "doesn't know it"
        column = "the column keeps its name with --data.columns.CODE NAME"
        raise UserError(f"{flag} {code}: the model {which}; its languages are {', '.join(sorted(known))}; {column}")
    return known[fitting[0]]


def set_languages(tokenizer: PreTrainedTokenizerFast, source: str, target: str) -> None:
    """Makes a tokenizer that has languages of its own frame sources and targets by them."""
    multilingual: Any = tokenizer
    multilingual.src_lang, multilingual.tgt_lang = source, target
