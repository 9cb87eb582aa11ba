"""Conversations as tokens: by the tokenizer's own chat template, or by a simple one that it then carries.

A template is a program; which tokens are the assistant's, it doesn't say. They are found by rendering what precedes a
reply and what ends with it, and are only believed where both are, token by token, the beginning of the whole.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.answers import Span
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.tokenizer import frame, raw
from ptm_lightning.errors import UserError

SYSTEM, USER, ASSISTANT = ROLES = ("system", "user", "assistant")
Message = dict[str, str]
"""Its role and its content."""
PROBE = ({"role": USER, "content": "a"}, {"role": ASSISTANT, "content": "b"})


def role_token(role: str) -> str:
    """The special token that begins a turn in the template of ours."""
    return f"<|{role}|>"


def with_chat_template(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """A tokenizer with a chat template: as it is if it has one, else a copy with a simple one.

    Args:
        tokenizer: Stays as it is.

    Returns:
        The tokenizer, and the tokens that were added, each with the ids of its role's pieces.

    Raises:
        UserError: It has neither a template nor a token that could end a turn.
    """
    if tokenizer.chat_template:
        return tokenizer, {}
    end = tokenizer.eos_token or tokenizer.sep_token
    if end is None:
        raise UserError(
            "--data.tokenizer: it has no chat template, and no eos (or sep) token to end a turn; give another"
        )
    known, plain = tokenizer.get_vocab(), raw(tokenizer)
    new = {
        role_token(role): plain.encode(role, add_special_tokens=False).ids
        for role in ROLES
        if role_token(role) not in known
    }
    made = deepcopy(tokenizer)
    added: Any = [AddedToken(token, normalized=False, special=True) for token in new]
    made.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
    made.chat_template = _template(tokenizer.convert_ids_to_tokens(frame(tokenizer)[0]), end)
    return made, new


def _template(before: Sequence[str], end: str) -> str:
    """Every turn between its role's token and the end; what is the assistant's is marked as transformers knows it."""
    begin, end, ask = (json.dumps(text) for text in ("".join(before), end, role_token(ASSISTANT)))
    return (
        "{{ " + begin + " }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + "
        + end
        + " }}{% endgeneration %}"
        "{% else %}{{ message['content'] + " + end + " }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ " + ask + " }}{% endif %}"
    )


class Chat:
    """Renders conversations by a tokenizer's template.

    Raises:
        UserError: It has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if not tokenizer.chat_template:
            raise UserError("--model.backbone: its tokenizer has no chat template, for it can't converse; fit it first")
        self.template: Any = tokenizer.chat_template
        self._tokenizer = tokenizer
        self._plain = raw(tokenizer)

    def text(self, messages: Sequence[Message], *, ask: bool) -> str:
        """A conversation as the template has it, if `ask` up to where the assistant begins to speak.

        Raises:
            UserError: The template refuses it.
        """
        try:
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask))
        except TemplateError as error:
            raise UserError(
                f"--data.tokenizer: its chat template refuses {_shown(messages)} ({error}); change the conversations, "
                "or give another tokenizer"
            ) from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of rendered or plain texts; special tokens are only those that stand there."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What a network reads before it answers."""
        return self.encode([self.text(messages, ask=True)])[0]

    @cached_property
    def end_id(self) -> int:
        """The special token that ends what the assistant says.

        Raises:
            UserError: The template has none.
        """
        ids, (span,) = self._unended(PROBE, (1,))
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        end = next((id_ for id_ in reversed(ids[span.first : span.last]) if id_ in special), None)
        if end is None:
            raise UserError(
                "--data.tokenizer: its chat template ends the assistant's turns with no special token, so that a "
                "network couldn't learn where to stop; give another tokenizer"
            )
        return end

    def replies(self, messages: Sequence[Message], turns: Sequence[int]) -> tuple[list[int], list[Span]]:
        """A conversation that ends with a reply, and where the assistant's words stand in it.

        Args:
            messages: The last one is the assistant's.
            turns: The numbers of some of the assistant's messages.

        Returns:
            The ids; for each turn its first token and the one behind its end.

        Raises:
            UserError: The tokens can't be told for certain.
        """
        end_id = self.end_id
        ids, spans = self._unended(messages, turns)
        found = []
        for turn, (first, last) in zip(turns, spans, strict=True):
            size = ids[first:last].index(end_id) + 1 if end_id in ids[first:last] else 0
            rest = str(self._tokenizer.decode(ids[first + size : last]))
            if not size or rest.strip():
                raise UserError(
                    f"{_shown(messages)}: the assistant's words hold {self._name(end_id)}, which ends a turn, or don't "
                    f"end with it (turn {turn + 1}); take it out, or leave the conversation out"
                )
            found.append(Span(first, first + size))
        return ids, found

    def _unended(self, messages: Sequence[Message], turns: Sequence[int]) -> tuple[list[int], list[Span]]:
        """The same with all that the template puts behind the replies."""
        heads = [self.text(messages[:turn], ask=True) for turn in turns]
        tails = [self.text(messages[: turn + 1], ask=False) for turn in turns]
        whole, *parts = self.encode([self.text(messages, ask=False), *heads, *tails])
        ids = zip(parts[: len(turns)], parts[len(turns) :], strict=True)
        spans = []
        for turn, head, tail, (before, through) in zip(turns, heads, tails, ids, strict=True):
            begins = all(part == whole[: len(part)] for part in (before, through)) and len(before) < len(through)
            says = tail.startswith(head) and messages[turn]["content"].strip() in tail[len(head) :]
            if not begins or not says:
                raise UserError(
                    f"--data.tokenizer: its chat template doesn't go on with {_shown(messages)} as it began, so that "
                    f"the assistant's tokens can't be told (turn {turn + 1}); give another, or try --data.learn last"
                )
            spans.append(Span(len(before), len(through)))
        return whole, spans

    def _name(self, id_: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(id_))


def _shown(messages: Sequence[Message]) -> str:
    """A conversation, by how it begins."""
    first = next((message for message in messages if message["role"] == USER), messages[0])
    return f"the conversation that begins with {first['content']!r:.60}"
