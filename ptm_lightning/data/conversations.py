"""Conversations as examples: what rows of messages must be, and the rows of tokens that are stored of them.

A row of tokens ends with a reply. Whatever a network has no room for is cut by whole turns from the left, the system's
message stays, and what then is left of the conversation makes rows of its own: no reply is lost.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from ptm_lightning.data.chat import ASSISTANT, ROLES, SYSTEM, USER, Chat, Message
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row
from ptm_lightning.data.layout import Frame
from ptm_lightning.errors import UserError

FIELDS = ("messages",)
REPLIES = 100_000
"""Different replies that are counted, to know the commonest."""
BEGINS = -1
"""Marks the first token of a row; others have the number of the turn that they are to be said in, or 0."""
CUT_ROWS = "rows that lack earlier turns"
LONG_TURNS, LONG_REPLIES = "replies to turns that are too long", "replies that are too long"
Learn = Literal["all", "last"]
"""Which of the assistant's turns are targets."""


class TokenRow(NamedTuple):
    """What a network reads and says."""

    ids: list[int]
    turns: list[int]
    """For each the number of the turn that it is to be said in; 0 if it is only read."""


def messages_of(row: Mapping[str, Any], where: str, *, ask: bool = False) -> list[Message]:
    """A row's messages, checked; a text alone is what the user says, and texts are the user's and assistant's by turns.

    Args:
        row: With the column messages.
        where: The beginning of error messages.
        ask: Whether the last turn of the user is to be answered; what follows it is left away.

    Raises:
        UserError: They are not a conversation of user and assistant, or there is nothing to learn or to answer in it.
    """
    given: Any = row["messages"]
    if ask and isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: messages must be a list of {{role, content}}, or of texts said by turns; use .jsonl")
    texts = all(isinstance(message, str) for message in given)
    made = [{"role": ROLES[1 + i % 2], "content": text} for i, text in enumerate(given)] if texts else given
    messages = [_checked(message, f"{where}: turn {n}") for n, message in enumerate(made, 1)]
    expected = USER
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role == SYSTEM and number == 1:
            continue
        if role != expected:
            raise UserError(
                f"{where}: turn {number} is the {role}'s where the {expected}'s should be; after a system message, if "
                "any, user and assistant take turns, the user first; merge or remove turns"
            )
        expected = ASSISTANT if role == USER else USER
    wanted = USER if ask else ASSISTANT
    while messages and messages[-1]["role"] != wanted:
        messages.pop()
    if not messages:
        raise UserError(f"{where}: no turn of the {wanted}, nothing to {'answer' if ask else 'learn'}; remove the row")
    return messages


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise UserError(f"{where} has no role and content; write {{'role': 'user', 'content': '...'}}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(f"{where} has the role {role!r:.40}; use {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"{where} holds {content!r:.40}, not text; leave the conversation out")
    if not content.strip():
        raise UserError(f"{where} is empty; fill it, or remove the conversation")
    return {"role": role, "content": content}


@dataclass
class ConversationReader:
    """Reads conversations, for an encoder-decoder or for a causal network."""

    chat: Chat
    target_frame: Frame | None
    """Special tokens around what a decoder says; None for a causal network, which says what the template has."""
    max_prompt: int
    """Tokens of what stands before a reply."""
    max_reply: int
    """Tokens of the longest reply, its end included."""
    learn: Learn
    fields: tuple[str, ...] = FIELDS
    together: tuple[str, ...] = FIELDS
    known: Sequence[str] = ()
    key: Any = field(init=False)
    """All that the rows depend on."""
    _said: Counter[str] = field(default_factory=Counter)
    _counts: Counter[str] = field(default_factory=Counter)
    """Of the conversation that is being encoded."""

    def __post_init__(self) -> None:
        self.key = ["chat", self.chat.template, self.target_frame, self.max_prompt, self.max_reply, self.learn]

    def take(self, row: Row, where: str) -> None:
        """Counts the replies of a training row."""
        for message in self._targets(messages_of(row, where)):
            if message["content"] in self._said or len(self._said) < REPLIES:
                self._said[message["content"]] += 1

    def check(self, row: Row, where: str) -> None:
        """Refuses an evaluation row that is no conversation."""
        messages_of(row, where)

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Evaluation rows are checked by themselves."""

    def stratum(self, row: Row) -> int:
        """All rows are held out in the same share."""
        return 0

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """Token ids of a conversation's rows one after the other, and for each the number of its turn."""
        return lambda rows: map(self._encoded, rows)

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """How many conversations and replies are learned from, and how many are too long; and the commonest reply."""
        return {"dialogue": dict(train.counted), "commonest reply": self._said.most_common(1)[0][0]}

    def _targets(self, messages: Sequence[Message]) -> Sequence[Message]:
        replies = [message for message in messages if message["role"] == ASSISTANT]
        return replies if self.learn == "all" else replies[-1:]

    def _encoded(self, row: Row) -> Encoded:
        self._counts = Counter(conversations=1)
        rows = list(self._rows(messages_of(row, "")))[::-1]
        ids = [id_ for row in rows for id_ in row.ids]
        turns = [turn for row in rows for turn in (BEGINS, *row.turns[1:])]
        return Encoded((ids,), {"turn": turns} if ids else {}, +self._counts)

    def _rows(self, messages: list[Message]) -> Iterator[TokenRow]:
        """The last row first."""
        make = self._causal_row if self.target_frame is None else self._two_sided_row
        turn = len(messages) - 1
        while turn > 0:
            first = turn
            prompt = fit_prompt(self.chat, messages[:turn], self.max_prompt)
            if prompt is None:
                self._counts[LONG_TURNS] += 1
            elif (row := make(messages, turn, *prompt)) is not None:
                self._counts["rows"] += 1
                self._counts[CUT_ROWS] += prompt[0] > 0
                if self.target_frame is None:  # the replies that stand in the row are done
                    first = prompt[0] + (messages[0]["role"] == SYSTEM)
                yield row
            if self.learn == "last":
                return
            turn = max((n for n in range(first) if messages[n]["role"] == ASSISTANT), default=0)

    def _two_sided_row(self, messages: list[Message], turn: int, dropped: int, prompt: list[int]) -> TokenRow | None:
        """What ends with a reply; None if that is too long."""
        assert self.target_frame is not None
        (said,) = self.chat.encode([messages[turn]["content"]])
        said = [*self.target_frame.before, *said, *self.target_frame.after]
        if not self._fits(len(said)):
            return None
        return TokenRow([*prompt, *said], [0] * len(prompt) + [turn + 1] * len(said))

    def _causal_row(self, messages: list[Message], turn: int, dropped: int, prompt: list[int]) -> TokenRow | None:
        """The same where earlier replies are targets, too."""
        kept, numbers = _without(messages[: turn + 1], dropped)
        learned = [n for n, message in enumerate(kept) if message["role"] == ASSISTANT]
        learned = learned if self.learn == "all" else learned[-1:]
        ids, spans = self.chat.replies(kept, learned)
        first, last = spans[-1]
        if not self._fits(last - first):
            return None
        turns = [0] * last
        turns[first:] = [turn + 1] * (last - first)
        for n, (first, last) in zip(learned[:-1], spans, strict=False):
            if self._fits(last - first):
                turns[first:last] = [numbers[n] + 1] * (last - first)
        return TokenRow(ids[: len(turns)], turns)

    def _fits(self, size: int) -> bool:
        fits = size <= self.max_reply
        self._counts["replies" if fits else LONG_REPLIES] += 1
        return fits


def fit_prompt(chat: Chat, messages: Sequence[Message], room: int) -> tuple[int, list[int]] | None:
    """The longest end of a conversation that fits, by whole turns; it begins with the user's, a system message stays.

    Args:
        chat: Renders it.
        messages: The last one is the user's.
        room: Tokens.

    Returns:
        How many messages are dropped, and the ids; None if the last turn alone doesn't fit, or has no token.
    """

    def rendered(dropped: int) -> list[int]:
        return chat.prompt(_without(messages, dropped)[0])

    if len(ids := rendered(0)) <= room:
        return (0, ids) if ids else None
    choices = range(2, len(messages) - (messages[0]["role"] == SYSTEM), 2)
    number = bisect_left(choices, True, key=lambda dropped: len(rendered(dropped)) <= room)
    return None if number == len(choices) else (choices[number], rendered(choices[number]))


def _without(messages: Sequence[Message], dropped: int) -> tuple[list[Message], list[int]]:
    """A conversation without its first turns, and the numbers that those left had before."""
    system = int(messages[0]["role"] == SYSTEM)
    numbers = [*range(system), *range(system + dropped, len(messages))]
    return [messages[number] for number in numbers], numbers
