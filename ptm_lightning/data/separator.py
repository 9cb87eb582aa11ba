"""What a causal network reads between a text and its answer, and how the tokens of both join it."""

from typing import NamedTuple

from tokenizers import Tokenizer

from ptm_lightning.errors import UserError

TEXT, ANSWER = "a", "b"
"""Stand for any: words that no tokenizer joins with a space."""


class Separator(NamedTuple):
    """A text between two others, as tokens."""

    ids: tuple[int, ...]
    lead: str
    """What an answer's tokens begin with: the space that stands before its first word, where the tokenizer tells."""


def separate(tokenizer: Tokenizer, text: str) -> Separator:
    """The tokens that a tokenizer gives to a separator wherever it stands, so that the parts of a row may be cut apart.

    Args:
        tokenizer: Neither pads nor cuts.
        text: Of the separator. The answer follows after a space, unless it ends with white space.

    Raises:
        UserError: It gives no token, or they depend on what stands around the separator.
    """

    def encode(whole: str) -> list[int]:
        return list(tokenizer.encode(whole, add_special_tokens=False).ids)

    space = "" if text[-1:].isspace() else " "
    before, through, whole = map(encode, (TEXT, TEXT + text, TEXT + text + space + ANSWER))
    begin, end = len(before), len(through)
    if through[:begin] != before or begin == end or text[0].isalnum():
        raise UserError(
            f"--data.separator {text!r}: the tokenizer gives it no tokens of its own behind a word; "
            "begin it with a line break or a space, and let it have a letter or a sign"
        )
    fitting = (lead for lead in (space, "") if whole == through + encode(lead + ANSWER))
    if (lead := next(fitting, None)) is None:
        raise UserError(
            f"--data.separator {text!r}: the tokenizer joins its end with what follows; end it with a sign, such as :"
        )
    return Separator(tuple(through[begin:]), lead)
