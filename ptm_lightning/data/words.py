"""Where words begin in a row of token ids, from tables of one entry per id: nothing is stored per token."""

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from ptm_lightning.errors import UserError

Flags = npt.NDArray[np.bool_]

# Classes of a token's first and last character.
_LETTER, _DIGIT, _OTHER, _SPACE, _BLANK, _ALONE, _WORD, _WITHIN, _SPECIAL = range(9)
# SPACE is ' ', BLANK other white space. ALONE: a character that is a word by itself. WORD (first only): text after a
# space. WITHIN: the token goes on with a character that an earlier one began. SPECIAL: a special or added token.

# Scripts written without spaces: ideographs, kana, Thai, Lao, Myanmar, Khmer.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_WHITE = frozenset("\t\n\x0b\x0c\r\x85")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class WordTable:
    """Tells where words begin, for WordPiece, byte-level BPE (GPT-2's rule), and SentencePiece.

    WordPiece: a word ends before each piece without '##'. Byte-level BPE: at a space, and between letters, digits
    and other characters, with 's, 't, 're, 've, 'm, 'll, 'd as words, as GPT-2's pre-tokenizer has it. SentencePiece:
    at '▁', and between letters or digits and other characters. In the latter two each token that begins with a
    character of a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) begins a word.
    """

    first: npt.NDArray[np.uint8]
    """Class of the first character, shape (vocabulary,)."""
    last: npt.NDArray[np.uint8]
    """Class of the last character, shape (vocabulary,)."""
    apostrophe: npt.NDArray[np.uint8]
    """1 for "'", 2 for what completes a contraction after it, 3 for a whole contraction; 0 else; (vocabulary,)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Self:
        """The table of a tokenizer.

        Raises:
            UserError: Its tokens don't show where words begin.
        """
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        first, last, apostrophe = (np.zeros(size, dtype=np.uint8) for _ in range(3))
        kind, prefix = tokenizer_kind(json.loads(tokenizer.backend_tokenizer.to_str()))
        for token, i in vocabulary.items():
            if kind == "prefix":
                first[i], last[i] = (_WITHIN if prefix and token.startswith(prefix) else _ALONE), _LETTER
                continue
            data = bytes_of(token, kind)
            first[i], last[i] = _ends(data)
            if kind == "bytes":
                apostrophe[i] = _contraction(data)
        if kind == "sentencepiece":
            first[first == _DIGIT] = _LETTER
            last[last == _DIGIT] = _LETTER
        special = [*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids]
        first[special] = last[special] = _SPECIAL
        apostrophe[special] = 0
        return cls(first, last, apostrophe)

    def starts(self, ids: npt.NDArray[np.integer[Any]]) -> Flags:
        """Where words begin.

        Args:
            ids: Token ids of one text, or of texts with special tokens between them, shape (n,).

        Returns:
            True where a token begins a word, shape (n,); the first token always does, special tokens always do.
        """
        if not len(ids):
            return np.zeros(0, dtype=np.bool_)
        first = self.first[ids]
        now, before = first[1:], _carried(self.last[ids])[:-1]
        begins = np.ones(len(ids), dtype=np.bool_)
        begins[1:] = self._between(now, before, first)
        mark = self.apostrophe[ids]
        if mark.any():
            alone = (mark == 1) & begins
            contracted = alone[:-1] & (mark[1:] == 2)
            begins[1:] &= ~contracted
            ended = (mark == 3) & begins
            ended[1:] |= contracted
            begins[1:] |= ended[:-1] & (now == _LETTER)
        return begins

    @staticmethod
    def _between(now: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8], first: npt.NDArray[np.uint8]) -> Flags:
        """Whether a word begins between neighbours: `before` is the class on the left, `now` that on the right."""
        begins: Flags = (now != before) | (now == _ALONE)
        # A single space belongs to the text after it.
        begins &= (before != _SPACE) | (now == _WORD)
        begins &= now != _WITHIN
        white_before = (before == _SPACE) | (before == _BLANK)
        # In a run of white space only the last one stands apart, and only before text without a space of its own.
        after = np.append(first[2:], _SPECIAL)
        text_after = (after != _BLANK) & (after != _WORD) & (after != _SPECIAL)
        in_run = (now == _BLANK) & white_before
        begins = (begins & ~in_run) | (in_run & text_after)
        return np.asarray(begins | (now == _SPECIAL) | (before == _SPECIAL))


def _carried(last: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Replaces the class of tokens that end within a character that began earlier by that of the token before."""
    within = last == _WITHIN
    if not within.any():
        return last
    source = np.where(within, 0, np.arange(len(last)))
    return last[np.maximum.accumulate(source)]


def tokenizer_kind(description: dict[str, Any]) -> tuple[str, str]:
    """How a tokenizer marks words: 'bytes', 'sentencepiece', or 'prefix' with the prefix of pieces within a word."""
    model = description["model"]
    if model["type"] == "WordPiece":
        return "prefix", model["continuing_subword_prefix"]
    if model["type"] == "WordLevel":
        return "prefix", ""
    steps = json.dumps([description.get("pre_tokenizer"), description.get("decoder"), description.get("normalizer")])
    if '"ByteLevel"' in steps:
        return "bytes", ""
    if '"Metaspace"' in steps or "\\u2581" in steps:
        return "sentencepiece", ""
    if model.get("continuing_subword_prefix"):
        return "prefix", model["continuing_subword_prefix"]
    raise UserError(
        f"--data.tokenizer: words can't be told apart in a {model['type']} tokenizer without ByteLevel or Metaspace; "
        "choose noise on single tokens"
    )


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's printable characters for bytes: those that print stand for themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def bytes_of(token: str, kind: str) -> bytes:
    """The text of a token, in UTF-8; possibly cut within a character."""
    if kind == "bytes":
        table = _byte_of()
        return bytes(table.get(character, 0x3F) for character in token)
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode("utf-8", "replace")


def _contraction(data: bytes) -> int:
    if data == b"'":
        return 1
    if data in (b"s", b"t", b"re", b"ve", b"m", b"ll", b"d"):
        return 2
    return 3 if data in (b"'s", b"'t", b"'re", b"'ve", b"'m", b"'ll", b"'d") else 0


def _ends(data: bytes) -> tuple[int, int]:
    """Classes of a token's first and last character."""
    whole = data.lstrip(bytes(range(0x80, 0xC0)))
    if not whole:
        return (_WITHIN, _WITHIN) if data else (_OTHER, _OTHER)
    text = _completed(whole)
    last = _class(text[-1])
    if len(whole) < len(data):
        return _WITHIN, last
    first = _class(text[0])
    if first in (_SPACE, _BLANK):
        return (_BLANK if last in (_SPACE, _BLANK) else _WORD), last
    if unicodedata.category(text[0])[0] == "M" and UNSPACED.match(text[0]):
        return _WITHIN, last
    return first, last


def _completed(data: bytes) -> str:
    """Decodes bytes that may end within a character, which is then completed by a usual one of its block."""
    # The usual characters of four bytes are emoji, F0 9F; after ED, which begins Korean syllables, B0 is none.
    fill = {b"\xf0": b"\x9f\xb0\xb0", b"\xed": b"\x95\xb0"}.get(data[-1:], b"\xb0\xb0\xb0")
    for missing in range(4):
        try:
            return (data + fill[:missing]).decode()
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace")


def _class(character: str) -> int:
    category = unicodedata.category(character)
    if character == " ":
        return _SPACE
    if category[0] == "Z" or character in _WHITE:
        return _BLANK
    if UNSPACED.match(character):
        return _ALONE
    return {"L": _LETTER, "N": _DIGIT}.get(category[0], _OTHER)
