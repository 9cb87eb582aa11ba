"""Dialogue: losses and answers as transformers' own, for causal networks and encoder-decoders; bad rows."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from answering import trainer_for, write
from conversing import DATA, KINDS, exported, prepared, rows_file
from ptm_lightning.tasks import Dialogue, DialogueData

from ptm_lightning.data.conversations import messages_of
from ptm_lightning.errors import UserError
from ptm_lightning.testing import CLAUSES, check_task
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

LIVELY: dict[str, Any] = {"gpt2": {}, "bart": {"init_std": 0.3}}
"""Overrides with which a network says more than the commonest reply."""


@pytest.mark.parametrize("learn", ["all", "last"])
def test_a_causal_loss_is_transformers_own(tmp_path: Path, learn: str):
    """With the labels that transformers makes of its own mask of the assistant's tokens."""
    task, data = prepared(rows_file(tmp_path), max_length=200, learn=learn, validation_share=0.3)
    task.eval()
    nll, count, replies = 0.0, 0, 0
    for row in data.corpus.validation.rows(range(len(data.corpus.validation))):
        marked = data.hf_tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        mask = marked["assistant_masks"][0].bool()
        starts = [n for n in range(1, len(mask)) if mask[n] and not mask[n - 1]]
        if learn == "last":
            mask[: starts[-1]] = False
        labels = marked["input_ids"].masked_fill(~mask, -100)
        with torch.no_grad():
            loss = task.network(marked["input_ids"], labels=labels).loss
        nll, count, replies = nll + float(loss) * int(mask.sum()), count + int(mask.sum()), replies + len(starts)
    (metrics,) = trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    assert metrics["val/loss"] == pytest.approx(nll / count, rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(torch.tensor(nll / count).exp().item(), rel=1e-5)
    assert data.link.target_side["asked"] == (replies if learn == "all" else len(data.corpus.validation))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_transformers_own(tmp_path: Path, kind: str):
    task, data = prepared(rows_file(tmp_path), {"architecture": kind})
    task.train()
    for module in task.network.modules():
        module.training = False
    for batch in data.train_dataloader():
        width = batch.get("decoder_input_ids", batch["input_ids"]).shape[1]
        labels = torch.full((len(batch["input_ids"]), width), -100)
        places = batch["target_index"] + (kind == "gpt2")  # a causal network's labels stand on the tokens themselves
        labels.view(-1)[places] = batch["targets"]
        with torch.no_grad():
            right = task.network(batch["input_ids"], attention_mask=(batch["document_ids"] > 0).long(), labels=labels)
            (term,) = task.terms(batch).values()
        assert float(term.sum) / term.count == pytest.approx(float(right.loss), rel=1e-5)
        assert term.count == int((labels >= 0).sum()) == batch["counts"]["target_text"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_what_transformers_generates(tmp_path: Path, kind: str):
    """From the exported folder, for one conversation at a time, by its chat template and its generation config."""
    learning = {"architecture": kind, "learning_rate": 3e-3, "overrides": tiny(kind) | LIVELY[kind]}
    task, data = prepared(rows_file(tmp_path), learning, steps=20, validation_share=0.3, max_length=200)
    seen: list[Any] = []
    task.measure = lambda *texts: seen.extend(zip(*texts, strict=True)) or {}
    trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    network, tokenizer = exported(tmp_path)
    right = []
    for row in data.corpus.validation.rows(range(len(data.corpus.validation))):
        messages = messages_of(row, "")
        for turn in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = tokenizer.apply_chat_template(
                messages[:turn], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            out = network.generate(prompt["input_ids"], attention_mask=prompt["attention_mask"])[0]
            said = out if kind == "bart" else out[prompt["input_ids"].shape[1] :]
            answer = tokenizer.decode(said, skip_special_tokens=True).strip()
            right.append((messages[turn - 1]["content"], answer, messages[turn]["content"]))
    assert len({answer for _, answer, _ in right}) > 1
    assert seen == right
    assert len(seen) == data.link.target_side["asked"]


def test_the_pipeline_takes_messages_and_says_what_predict_says(tmp_path: Path):
    task, _ = prepared(rows_file(tmp_path), {"learning_rate": 3e-3}, steps=20, max_length=200)
    exported(tmp_path)
    pipe: Any = transformers.pipeline("text-generation", model=str(tmp_path / "model"), device="cpu")
    rows = [{"messages": example(number)["messages"][:-1]} for number in range(100, 112)]
    module = DialogueData(predict=[str(write(tmp_path / "asked.jsonl", rows))])
    found = [row["prediction"] for part in trainer_for(tmp_path, 0).predict(task, module) for row in part]
    theirs = [pipe(row["messages"])[0]["generated_text"] for row in rows]
    assert [messages[:-1] for messages in theirs] == [row["messages"] for row in rows]
    assert {messages[-1]["role"] for messages in theirs} == {"assistant"}
    assert [messages[-1]["content"].strip() for messages in theirs] == found
    assert len(set(found)) > 1
    assert {len(row["messages"]) for row in rows} >= {1, 2, 3, 4}


@pytest.mark.parametrize(
    "clause", [clause for clause in CLAUSES if clause.__name__ != "every_argument_counts"], ids=lambda c: c.__name__
)
def test_an_encoder_decoder_keeps_the_contract(clause: Any):
    check_task(
        Dialogue,
        arguments={"architecture": "bart", "overrides": tiny("bart")},
        data={"max_length": 64, "max_target_length": 16, "vocab_size": 300},
        clauses=[clause],
    )


def test_a_network_that_sees_later_tokens_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"--model.architecture bert: its predictions see later tokens"):
        prepared(rows_file(tmp_path), {"architecture": "bert"})


def test_what_is_cut_and_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [[f"{i}", "cat"] * (20 if i % 2 else 1) for i in range(40)]
    for i in range(4):
        rows += [[f"{'river ' * 90}{i}", "cat"], [f"a {i}", "river " * 90], [f"b {i}", "cat", "river " * 90, "cat"]]
    source = write(tmp_path / "rows.jsonl", [{"turns": row} for row in rows])
    long = [["a", "river " * 90], ["river " * 90, "cat"], ["1", "cat"], ["2", "cat"]]
    other = write(tmp_path / "other.jsonl", [{"turns": row} for row in long])
    task, data = prepared(source, max_length=60, validation=[str(other)], test=[str(other)])
    for split, turns, replies, others in (("training", 8, 4, 424), ("validation", 1, 1, 2)):
        what = f"{turns} {split} replies to turns that are too long are left out; {others} others are not"
        assert f"--data.max_length 60: {what}" in caplog.text
        what = f"{replies} {split} replies that are too long are left out; {others} others are not"
        assert f"--data.max_target_length 20: {what}" in caplog.text
    assert re.search(r"\d+ of \d+ training rows lack earlier turns, which don't fit", caplog.text)
    caplog.clear()
    trainer_for(tmp_path, 0).test(task, data, verbose=False)
    assert "1 test replies to turns that are too long are left out; 2 others are not" in caplog.text
    assert "training" not in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "a"}]},
            "no turn of the assistant, nothing to learn; remove the row",
        ),
        ({"turns": ["a", ""]}, "turn 2 is empty; fill it, or remove the conversation"),
        ({"messages": [{"role": "x", "content": "a"}]}, "turn 1 has the role 'x'; use system, user, assistant"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(tmp_path: Path, row: dict[str, Any], message: str):
    source = write(tmp_path / "rows.jsonl", [{"turns": ["a", "b"]}, row])
    with pytest.raises(UserError, match=f"^--data.train: {source}:2: {message}"):
        prepared(source)
    good = rows_file(tmp_path)
    bad = write(tmp_path / "bad.jsonl", [row])
    with pytest.raises(UserError, match=f"^--data.validation: {bad}:1: {message}"):
        prepared(good, validation=[str(bad)])


def test_a_missing_column_is_named(tmp_path: Path):
    source = write(tmp_path / "rows.jsonl", [{"chat": ["a", "b"]}])
    with pytest.raises(UserError, match=r"no column 'messages'; .* name yours with --data.columns.messages=chat"):
        prepared(source)
    prepared(
        write(tmp_path / "rows.jsonl", [{"chat": [f"a{i}", "b"]} for i in range(20)]), columns={"messages": "chat"}
    )


def test_lengths_without_room_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"--data.max_target_length 20: leaves no room in a row of --data.max_l"):
        prepared(rows_file(tmp_path), max_length=20)
    with pytest.raises(
        UserError, match=r"--model.max_new_tokens 30: .* 80 positions, and 60 tokens may stand before .* at most 20"
    ):
        prepared(rows_file(tmp_path), {"max_new_tokens": 30})


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_turn_of_the_user_is_answered(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture):
    task, _ = prepared(rows_file(tmp_path), {"architecture": kind}, steps=2)
    asked = [
        {"id": "x", "messages": ["a", "b", "where is it ?", "here"]},
        {"messages": [{"role": "system", "content": "be short ."}, {"role": "user", "content": "c"}]},
        {"turns": ["the cat sees", "a dog"] * 20 + ["who ?"]},
    ]
    source = write(tmp_path / "asked.jsonl", asked)
    answers = {}
    for size in (1, 32):
        module = DialogueData(text=["hello"], predict=[str(source)], **DATA | {"batch_size": size})
        found = [row for part in trainer_for(tmp_path, 0).predict(task, module) for row in part]
        assert [row["id"] for row in found] == ["0", "x", "2", "3"]
        assert [row["text"] for row in found] == ["hello", "where is it ?", "c", "who ?"]
        answers[size] = [row["prediction"] for row in found]
    assert answers[1] == answers[32]
    assert "--data.max_length 80: cuts 1 of 4 texts to predict for" in caplog.text


def test_of_a_last_turn_that_is_too_long_the_end_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task, _ = prepared(rows_file(tmp_path))
    (found,) = trainer_for(tmp_path, 0).predict(task, DialogueData(text=["cat " * 90, "a cat"], **DATA))
    assert all(row["prediction"] is not None for row in found)
    assert "--data.max_length 80: cuts 1 of 2 texts to predict for" in caplog.text


def test_the_commonest_reply_stands_beside(tmp_path: Path):
    rows = [{"turns": [f"a {i}", "yes indeed my friend" if i % 3 else f"no {i}"]} for i in range(40)]
    task, data = prepared(write(tmp_path / "rows.jsonl", rows), validation_share=0.3)
    (metrics,) = trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    kept = [row["turns"][1] for row in data.corpus.validation.rows(range(len(data.corpus.validation)))]
    assert metrics["val/f1_commonest"] == pytest.approx(100 * sum("yes" in text for text in kept) / len(kept))
    assert 0 < metrics["val/bleu_commonest"] < 100
