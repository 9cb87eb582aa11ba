"""Conversations as rows: against transformers' own rendering of what is kept, and a naive search for what fits."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chat_templates import CHATML, chat_tokenizer

from ptm_lightning.data.builtin import BUILTIN
from ptm_lightning.data.chat import Chat, with_chat_template
from ptm_lightning.data.columns import with_more_columns
from ptm_lightning.data.conversations import BEGINS, LONG_REPLIES, LONG_TURNS, ConversationReader, messages_of
from ptm_lightning.data.counting import AGAIN, GERMAN
from ptm_lightning.data.example_store import Encoded, ExampleStore, write_examples
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.replies import Replies
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.errors import UserError

WORDS = ["the", "cat", "sees", "a", "dog", "near", "the", "river", "what", "comes", "after", "twenty"]
FRAME = Frame((0,), (2,))


def talk(seed: int, turns: int | None = None) -> list[dict[str, str]]:
    draw = random.Random(seed)
    system = [{"role": "system", "content": "be short ."}] if seed % 2 else []
    count = turns or 2 * draw.randrange(1, 6) + draw.randrange(2)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((1, 3, 8, 20)))) for _ in range(count)]
    return system + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def reader(template: str | None = None, **settings: Any) -> ConversationReader:
    chat = Chat(with_chat_template(chat_tokenizer(template))[0])
    return ConversationReader(
        **{"chat": chat, "target_frame": None, "max_prompt": 40, "max_reply": 12, "learn": "all", **settings}
    )


def encoded(made: ConversationReader, messages: list[dict[str, str]]) -> Encoded:
    (row,) = made.encoder(raw(chat_tokenizer(None)))([{"messages": messages}])
    return row


def rows_of(made: ConversationReader, messages: list[dict[str, str]]) -> list[tuple[list[int], list[int]]]:
    fields, columns, _ = encoded(made, messages)
    if not any(fields):
        return []
    (ids,), turns = fields, columns["turn"]
    assert len(ids) == len(turns)
    begins = [n for n, turn in enumerate(turns) if turn == BEGINS]
    ends = [*begins[1:], len(ids)]
    return [(list(ids[a:b]), [max(0, turn) for turn in turns[a:b]]) for a, b in zip(begins, ends, strict=True)]


def sizes(chat: Chat, messages: list[dict[str, str]], turn: int) -> tuple[int, int | None]:
    """How many of the first messages go before a reply's prompt fits in 40, by trying all; and the reply's tokens."""
    system = int(messages[0]["role"] == "system")
    for dropped in range(0, turn - system, 2):
        kept = messages[:system] + messages[system + dropped : turn]
        if len(chat.prompt(kept)) <= 40:
            return dropped, len(chat.replies([*kept, messages[turn]], [len(kept)])[0]) - len(chat.prompt(kept))
    return -1, None


@pytest.mark.parametrize("template", [None, CHATML])
@pytest.mark.parametrize("seed", range(12))
def test_every_reply_that_fits_is_learned_once(seed: int, template: str | None):
    made, messages = reader(template), talk(seed)
    chat, system = made.chat, int(messages[0]["role"] == "system")
    behind = 0 if template is None else 1  # ChatML's newline after the end, which isn't learned
    learned = []
    for ids, turns in rows_of(made, messages):
        last = max(turns) - 1
        dropped, size = sizes(chat, messages, last)
        kept = messages[:system] + messages[system + dropped : last + 1]
        assert ids == chat.encode([chat.text(kept, ask=False)])[0][: len(ids)]
        assert len(ids) <= 40 + 12
        assert ids[: len(chat.prompt(kept[:-1]))] == chat.prompt(kept[:-1])
        assert turns.count(last + 1) == size - behind
        learned += sorted({turn - 1 for turn in turns if turn})
    replies = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    all_sizes = [sizes(chat, messages, turn)[1] for turn in replies]
    fitting = [n for n, size in zip(replies, all_sizes, strict=True) if size is not None and size - behind <= 12]
    assert learned == fitting
    counts = encoded(made, messages).counts
    assert counts.get("replies", 0) == len(learned)
    told = [counts.get(what, 0) for what in (LONG_TURNS, LONG_REPLIES)]
    assert told == [all_sizes.count(None), sum(size is not None and size - behind > 12 for size in all_sizes)]


@pytest.mark.parametrize("seed", range(6))
def test_an_encoder_reads_what_a_decoder_answers(seed: int):
    made, messages = reader(target_frame=FRAME), talk(seed)
    learned = []
    for ids, turns in rows_of(made, messages):
        (turn,) = {turn - 1 for turn in turns if turn}
        dropped, _ = sizes(made.chat, messages, turn)
        system = int(messages[0]["role"] == "system")
        prompt = made.chat.prompt(messages[:system] + messages[system + dropped : turn])
        said = made.chat.encode([messages[turn]["content"]])[0]
        assert ids == [*prompt, 0, *said, 2]
        assert turns == [0] * len(prompt) + [turn + 1] * (len(said) + 2)
        learned.append(turn)
    assert learned == sorted(learned)
    assert rows_of(reader(target_frame=FRAME, learn="last"), messages) in ([], rows_of(made, messages)[-1:])


def test_only_the_last_reply_is_learned_where_asked():
    (row,) = rows_of(reader(learn="last", max_prompt=200, max_reply=50), talk(3, 6))
    (both,) = rows_of(reader(max_prompt=200, max_reply=50), talk(3, 6))
    assert row[0] == both[0]
    assert set(row[1]) == {0, 7}
    assert set(both[1]) == {0, 3, 5, 7}


def texts_of(store: ExampleStore, pieces: Pieces) -> list[list[int]]:
    return [store.tokens[a : a + n].tolist() for a, n in zip(pieces.start, pieces.length, strict=True)]


def test_in_evaluation_a_row_ends_with_each_reply(tmp_path: Path):
    made, tokenizer = reader(), chat_tokenizer(None)
    rows = [{"messages": talk(seed)} for seed in range(20)]
    write_examples(rows, made.encoder(raw(tokenizer)), made.chat._plain, tmp_path / "store")
    store = ExampleStore.open(tmp_path / "store")
    start, length = store.offsets[:-1], np.diff(store.offsets)
    stored = [row for each in rows for row in rows_of(reader(), each["messages"])]
    pieces = Replies(store, evaluate=False)(start, length, np.zeros(len(start)))
    assert texts_of(store, pieces) == [ids for ids, _ in stored]
    pieces = Replies(store, evaluate=True)(start, length, np.zeros(len(start)))
    naive = [
        ids[:end]
        for ids, turns in stored
        for end in range(1, len(ids) + 1)
        if turns[end - 1] and (end == len(ids) or turns[end] != turns[end - 1])
    ]
    assert texts_of(store, pieces) == naive
    some = np.array([5, 2])
    part = Replies(store, evaluate=True)(start[some], length[some], np.array([7, 9]))
    assert set(part.draw.tolist()) == {7, 9}
    assert part.start.tolist() == [a for n in some for a in pieces.start.tolist() if 0 <= a - start[n] < length[n]]


def test_messages_and_turns_are_the_same():
    said = ["a", "b", "c"]
    roles = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said, strict=True)]
    assert messages_of({"messages": said}, "") == messages_of({"messages": roles}, "") == roles[:2]
    assert messages_of({"messages": [*said, "d"]}, "", ask=True) == roles
    assert messages_of({"messages": "a"}, "", ask=True) == roles[:1]
    assert with_more_columns({"turns": said}) == {"turns": said, "messages": said}
    assert with_more_columns({"turns": said, "messages": roles})["messages"] == roles
    assert as_text(roles) == "a\nb\nc"


def user(text: Any) -> Any:
    return {"role": "user", "content": text}


def said(text: Any) -> Any:
    return {"role": "assistant", "content": text}


BAD = {
    "a text": ("hello", r"messages must be a list of \{role, content\}"),
    "nothing": ([], r"messages must be a list"),
    "mixed": ([user("a"), "b"], r"turn 2 has no role and content; write"),
    "no content": ([user("a"), {"role": "assistant"}], r"turn 2 has no role and content"),
    "unknown role": (
        [user("a"), {"role": "bot", "content": "b"}],
        r"turn 2 has the role 'bot'; use system, user, a",
    ),
    "no text": ([user("a"), said(None)], r"turn 2 holds None, not text"),
    "empty": ([user("a"), said(" \n"), user("c")], r"turn 2 is empty; fill it, or remove the conversation"),
    "twice": ([user("a"), user("b"), said("c")], r"turn 2 is the user's where the assistant's should be"),
    "late system": ([user("a"), {"role": "system", "content": "b"}], r"turn 2 is the system's where the assistant's"),
    "assistant first": ([said("a"), user("b")], r"turn 1 is the assistant's where the user's should be"),
    "no assistant": ([{"role": "system", "content": "b"}, user("a")], r"no turn of the assistant, nothing to learn"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_conversation_is_refused(name: str):
    given, message = BAD[name]
    with pytest.raises(UserError, match=rf"^HERE:7: {message}"):
        reader().take({"messages": given}, "HERE:7")
    with pytest.raises(UserError, match=rf"^HERE:7: {message}"):
        reader().check({"messages": given}, "HERE:7")


def test_there_must_be_something_to_answer():
    with pytest.raises(UserError, match=r"^HERE: no turn of the user, nothing to answer"):
        messages_of({"messages": [{"role": "system", "content": "b"}]}, "HERE", ask=True)


def test_the_commonest_reply_is_known():
    made, counted = reader(), SimpleNamespace(counted={"replies": 3})
    for text in ("yes", "no", "yes"):
        made.take({"messages": ["a", text, "b", "other", "c"]}, "")
    assert made.facts(counted) == {"dialogue": {"replies": 3}, "commonest reply": "other"}
    last = reader(learn="last")
    for text in ("yes", "no", "yes"):
        last.take({"messages": ["a", "other", "b", text, "c"]}, "")
    assert last.facts(counted)["commonest reply"] == "yes"


def test_the_built_in_conversations_are_right():
    rows = list(BUILTIN["conversations"]())
    assert rows == list(BUILTIN["conversations"]())
    assert 1_500 < len({json.dumps(row) for row in rows}) == len(rows)
    assert {len(row["messages"]) for row in rows} == {*range(2, 10)}
    german = [row for row in rows if row["messages"][0]["content"] == GERMAN]
    assert 0.4 < len(german) / len(rows) < 0.6
    for row in rows:
        before = ""
        for question, answer in zip(*(messages_of(row, "")[row in german :][n::2] for n in (0, 1)), strict=True):
            asked, told = question["content"], answer["content"]
            assert told.startswith(("Nach ", "Vor ") if row in german else ("After ", "Before "))
            if asked == AGAIN:
                assert told.split()[:2] == [before.split()[0], before.split()[-1].rstrip(".")]
            elif row not in german:
                assert told.split()[:2] == [asked.split()[2].capitalize(), asked.split()[3].rstrip("?")]
            before = told
