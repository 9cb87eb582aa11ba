"""The assistant's tokens are found exactly, as transformers itself marks them, or it is said that they can't be."""

from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, ENDLESS, FORGETFUL, LLAMA, NO_SYSTEM, ONE_END, chat_tokenizer
from transformers import AutoTokenizer

from ptm_lightning.data.chat import Chat, role_token, with_chat_template
from ptm_lightning.data.tokenizer import from_text, to_text
from ptm_lightning.errors import UserError

TALK = [
    {"role": "system", "content": "be short ."},
    {"role": "user", "content": "what comes after twenty ?"},
    {"role": "assistant", "content": " twenty-one , it is\n"},
    {"role": "user", "content": "the cat ?"},
    {"role": "assistant", "content": "(a dog)"},
]


@pytest.mark.parametrize("algorithm", ["bpe", "gpt2", "wordpiece", "unigram", "xlnet"])
def test_what_is_learned_is_what_transformers_marks(tmp_path: Path, algorithm: Any):
    """In the template of ours, once it is saved and loaded again.

    Where a reply begins with a space, which tokens don't count as theirs, transformers marks nothing.
    """
    talk = [{**message, "content": message["content"].strip()} for message in TALK]
    tokenizer, new = with_chat_template(chat_tokenizer(None, algorithm))
    assert list(new) == ["<|system|>", "<|user|>", "<|assistant|>"]
    ids, spans = Chat(tokenizer).replies(talk, (2, 4))
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    right = loaded.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    assert ids == right["input_ids"]
    marked = [n for first, last in spans for n in range(first, last)]
    assert marked == [n for n, mark in enumerate(right["assistant_masks"]) if mark]
    end = tokenizer.eos_token or tokenizer.sep_token
    for (first, last), turn in zip(spans, (2, 4), strict=True):
        prompt = loaded.apply_chat_template(talk[:turn], add_generation_prompt=True)["input_ids"]
        assert ids[:first] == prompt
        assert tokenizer.convert_ids_to_tokens(ids[last - 1]) == end
        assert role_token("assistant") == tokenizer.convert_ids_to_tokens(ids[first - 1])


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (LLAMA, "</s>"), (FORGETFUL, "<|im_end|>")])
def test_foreign_templates(template: str, end: str):
    tokenizer = chat_tokenizer(template)
    assert with_chat_template(tokenizer) == (tokenizer, {})
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.end_id) == end
    ids, spans = chat.replies(TALK, (2, 4))
    assert ids == tokenizer.apply_chat_template(TALK)["input_ids"]
    for (first, last), turn in zip(spans, (2, 4), strict=True):
        assert ids[:first] == chat.prompt(TALK[:turn])
        said = tokenizer.decode(ids[first:last])
        assert (
            said.strip()
            == TALK[turn]["content"].strip()
            + (" " if template is LLAMA else "\n" * (turn == 2)) * (template is not FORGETFUL or turn == 2)
            + end
        )


def test_a_template_that_changes_what_was_said_is_refused_but_for_the_last_reply():
    talk = [{**m, "content": m["content"] + ("thought|said" if m["role"] == "assistant" else "")} for m in TALK]
    chat = Chat(chat_tokenizer(FORGETFUL))
    with pytest.raises(UserError, match=r"doesn't go on with the conversation that begins with 'what.*learn last"):
        chat.replies(talk, (2, 4))
    assert len(chat.replies(talk, (4,))[1]) == 1
    once = Chat(chat_tokenizer(ONE_END))  # it ends the whole conversation, and no turn
    with pytest.raises(UserError, match=r"as it began"):
        once.replies(TALK, (2, 4))
    ids, ((first, last),) = once.replies(TALK, (4,))
    assert (ids[:first], last) == (once.prompt(TALK[:4]), len(ids))


def test_what_cant_be_learned_is_refused():
    with pytest.raises(UserError, match=r"ends the assistant's turns with no special token"):
        Chat(chat_tokenizer(ENDLESS)).replies(TALK, (2,))
    with pytest.raises(UserError, match=r"chat template refuses the conversation .*System role not supported"):
        Chat(chat_tokenizer(NO_SYSTEM)).prompt(TALK[:2])
    chat = Chat(with_chat_template(chat_tokenizer(None))[0])
    with pytest.raises(UserError, match=r"begins with 'a </s>'.*words hold </s>, which ends a turn.*\(turn 2\)"):
        chat.replies([{"role": "user", "content": "a </s>"}, {"role": "assistant", "content": "the </s> tag"}], (1,))
    bare = chat_tokenizer(None)
    bare.eos_token = bare.sep_token = None
    with pytest.raises(UserError, match=r"--data.tokenizer: it has no chat template, and no eos"):
        with_chat_template(bare)


def test_the_tokenizer_that_is_given_stays_as_it_is():
    given = chat_tokenizer(None)
    given.add_special_tokens({"extra_special_tokens": ["<extra_id_0>"]})
    before = to_text(given)
    made, new = with_chat_template(given)
    assert to_text(given) == before
    assert made.extra_special_tokens == ["<extra_id_0>", *new]
    assert made.convert_tokens_to_ids(list(new)) == list(range(len(given), len(given) + 3))
    assert given.decode(new["<|assistant|>"]) == "assistant"


def test_a_checkpoint_carries_the_template():
    made, _ = with_chat_template(chat_tokenizer(None))
    back = from_text(*to_text(made))
    assert back.chat_template == made.chat_template
    assert back.apply_chat_template(TALK) == made.apply_chat_template(TALK)
    assert to_text(back) == to_text(made)
