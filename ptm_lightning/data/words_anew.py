"""Which tokens go on with a word, by the tokenizer's library, which splits the text once more: for `check`.

`data.words` tells the same from a table, and is held to this.
"""

import json
import re
import unicodedata
from difflib import SequenceMatcher

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.noise import Bools, Ints
from ptm_lightning.data.tokenizer import plain
from ptm_lightning.data.words import UNSPACED, tokenizer_kind

CUT = "\ufffd"
"""What stands for a character of which some bytes are missing."""
_CONTRACTION = re.compile("'(s|t|re|ve|m|ll|d)$")


class WordsAnew:
    """Splits the text of some tokens once more, as `tokenizers` does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = plain(tokenizer)
        self._marks_pieces = tokenizer_kind(json.loads(self._backend.to_str()))[0] == "prefix"

    def go_on(self, ids: Ints) -> tuple[Bools, int]:
        """Which tokens go on with the word of the token before them.

        Where a text is cut within a word, it isn't split as it was, and nothing is known of its borders.

        Args:
            ids: (n,) tokens of one text.

        Returns:
            (n,) true where a token is known to go on with a word, and of how many it is known whether they do.
        """
        known = 0
        found = np.zeros(len(ids), dtype=np.bool_)
        text = self._backend.decode(ids.tolist(), skip_special_tokens=False).rstrip()
        anew = self._backend.encode(text, add_special_tokens=False)
        for own, again, size in SequenceMatcher(None, ids.tolist(), anew.ids, autojunk=False).get_matching_blocks():
            known += max(0, size - 1)
            for nth in range(1, size):
                found[own + nth] = not self._may_begin(text, anew, again + nth)
        return found, known

    def _may_begin(self, text: str, anew: Encoding, nth: int) -> bool:
        """Whether a word may begin at a token, which isn't the first one.

        A pre-tokenizer that keeps spaces knows less than `WordTable`: a character of a script without spaces is a word,
        and letters, digits, other characters and white space are apart.
        """
        words, begin = anew.word_ids, anew.offsets[nth][0]
        if words[nth] != words[nth - 1] or words[nth] is None:
            return True
        if self._marks_pieces or not 0 < begin < len(text) or begin < anew.offsets[nth - 1][1]:
            return False
        before, now = text[begin - 1], text[begin]
        apart = now.isspace() or _kind_of(before) != _kind_of(now) or _CONTRACTION.search(text[:begin][-3:]) is not None
        return apart or any(character == CUT or UNSPACED.match(character) for character in (before, now))


def _kind_of(character: str) -> str:
    """Letters, digits, white space, or others."""
    return " " if character.isspace() else {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "")
