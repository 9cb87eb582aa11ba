"""Dialogue: losses and answers as transformers' own, for causal networks and encoder-decoders."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from answering import trainer_for, write
from chat_templates import CHATML, chat_tokenizer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import Dialogue, DialogueData
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from two_processes import answers_that_both_measure

from ptm_lightning.__main__ import main
from ptm_lightning.data.conversations import messages_of
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.scores import Evaluated
from ptm_lightning.testing import CLAUSES, check_task
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

KINDS = ("gpt2", "bart")
LIVELY: dict[str, Any] = {"gpt2": {}, "bart": {"init_std": 0.3}}
"""Overrides with which a network says more than the commonest reply."""
DATA: dict[str, Any] = {"max_length": 80, "max_target_length": 20, "batch_size": 8, "vocab_size": 300}


def rows_file(folder: Path, count: int = 60) -> Path:
    return write(folder / "talk.jsonl", [{"messages": example(i)["messages"]} for i in range(count)])


def prepared(source: Path, task: dict[str, Any] | None = None, steps: int = 0, **data: Any) -> tuple[Any, Any]:
    task = {"architecture": "gpt2", **(task or {})}
    model = Dialogue(**{"overrides": tiny(task["architecture"]), "max_new_tokens": 12, **task})
    module = DialogueData(train=[str(source)], **(DATA | data))
    saver = ModelCheckpoint(source.parent / "saved", filename="last", every_n_train_steps=max(1, steps))
    trainer_for(source.parent, steps, saver).fit(model, module)
    return model, module


def exported(folder: Path) -> tuple[Any, Any]:
    """What transformers alone loads: network and tokenizer."""
    made = export(folder / "saved" / "last.ckpt", folder / "model", Dialogue, settings={})
    config = transformers.AutoConfig.from_pretrained(made)
    kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
    return getattr(transformers, kind).from_pretrained(made).eval(), AutoTokenizer.from_pretrained(made)


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


def folder_of(path: Path, template: str | None) -> Path:
    """A pretrained GPT-2 of no worth."""
    tokenizer = chat_tokenizer(template)
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=100, n_embd=32, n_layer=1, n_head=2, **ids)
    GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_pretrained_network_without_a_template_gets_tokens_for_the_roles(tmp_path: Path):
    folder = folder_of(tmp_path / "gpt", None)
    old = GPT2LMHeadModel.from_pretrained(folder).get_input_embeddings().weight
    source = rows_file(tmp_path)
    task, data = prepared(source, {"backbone": str(folder), "overrides": None}, steps=0, vocab_size=8192)
    table = task.network.get_input_embeddings().weight
    assert len(table) == len(old) + 3 == len(data.hf_tokenizer)
    plain = AutoTokenizer.from_pretrained(folder)
    pieces = plain("assistant", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(table[data.hf_tokenizer.convert_tokens_to_ids("<|assistant|>")], old[pieces].mean(dim=0))
    task, _ = prepared(source, {"backbone": str(folder), "overrides": None}, steps=1, vocab_size=8192)
    network, tokenizer = exported(tmp_path)
    assert network.config.vocab_size == len(tokenizer) == len(old) + 3
    again, data = prepared(source, {"backbone": str(tmp_path / "model"), "overrides": None}, vocab_size=8192)
    assert len(again.network.get_input_embeddings().weight) == len(old) + 3
    assert data.hf_tokenizer.chat_template == tokenizer.chat_template


def test_a_pretrained_networks_own_template_says_where_a_reply_ends(tmp_path: Path):
    folder = folder_of(tmp_path / "gpt", CHATML)
    task, data = prepared(rows_file(tmp_path), {"backbone": str(folder), "overrides": None}, steps=1)
    end = data.hf_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert task.network.generation_config.eos_token_id == end != data.hf_tokenizer.eos_token_id
    batch: Any = next(iter(data.train_dataloader()))
    targets = data.hf_tokenizer.decode(batch["targets"])
    assert "<|im_start|>" not in targets
    assert targets.endswith("<|im_end|>")
    network, tokenizer = exported(tmp_path)
    assert network.generation_config.eos_token_id == end
    assert tokenizer.chat_template == CHATML


def test_a_network_that_sees_later_tokens_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"--model.architecture bert: its predictions see later tokens"):
        prepared(rows_file(tmp_path), {"architecture": "bert"})


def test_what_is_cut_and_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [[f"{i}", "cat"] * (20 if i % 2 else 1) for i in range(40)]
    for i in range(4):
        rows += [[f"{'river ' * 90}{i}", "cat"], [f"a {i}", "river " * 90], [f"b {i}", "cat", "river " * 90, "cat"]]
    source = write(tmp_path / "rows.jsonl", [{"turns": row} for row in rows])
    other = write(tmp_path / "other.jsonl", [{"turns": ["1", "cat"]}])
    prepared(source, max_length=60, validation=[str(other)], test_share=0)
    assert "--data.max_length 60: 8 replies to turns that are too long are left out; 425 others" in caplog.text
    assert "--data.max_target_length 20: 4 replies that are too long are left out; 425 others are not" in caplog.text
    assert "rows lack earlier turns, which don't fit" in caplog.text


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
    assert "--data.max_length 80: 1 of 4 conversations lose their first turns" in caplog.text
    with pytest.raises(UserError, match=r"id 0: its last turn has more than \d+ tokens; shorten it"):
        trainer_for(tmp_path, 0).predict(task, DialogueData(text=["cat " * 90], **DATA))


def test_the_commonest_reply_stands_beside(tmp_path: Path):
    rows = [{"turns": [f"a {i}", "yes indeed my friend" if i % 3 else f"no {i}"]} for i in range(40)]
    task, data = prepared(write(tmp_path / "rows.jsonl", rows), validation_share=0.3)
    (metrics,) = trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    kept = [row["turns"][1] for row in data.corpus.validation.rows(range(len(data.corpus.validation)))]
    assert metrics["val/f1_commonest"] == pytest.approx(100 * sum("yes" in text for text in kept) / len(kept))
    assert 0 < metrics["val/bleu_commonest"] < 100


def test_two_processes_score_every_reply_once(tmp_path: Path, cache: Path):
    answers = answers_that_both_measure(
        tmp_path, rows_file(tmp_path), cache,
        task="Dialogue", architecture="gpt2", new_tokens=6, max_length=80, max_target_length=20,
    )  # fmt: skip
    assert len(answers) > 18  # replies, of 18 conversations


@pytest.mark.parametrize("kind", KINDS)
def test_the_preset_runs_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
):
    """Through the real command line: fit, test, predict; and a run goes on from the other's network, of either kind."""
    monkeypatch.chdir(tmp_path)
    small = [f"--model.architecture={kind}", f"--model.overrides={json.dumps(tiny(kind))}", "--data.vocab_size=400"]
    short = ["--model.validation_answers=3", "--trainer.accelerator=cpu", "--trainer.max_steps=2"]
    assert main(["fit", "--config", "dialogue", *small, *short, "--run_dir=run"]) == 0
    screen = capfd.readouterr().out
    assert all(f"val/{name} " in screen for name in ("perplexity", "bleu", "f1", "f1_commonest", "distinct2"))
    assert main(["test", "--run_dir=run", "--trainer.limit_test_batches=2", "--trainer.accelerator=cpu"]) == 0
    assert "test/perplexity " in capfd.readouterr().out
    assert main(["predict", "--run_dir=run", "--text", "And then?", "--trainer.accelerator=cpu"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line).keys() == {"id", "text", "prediction", "score"}
    assert (tmp_path / "run" / "model" / "generation_config.json").exists()
    assert (tmp_path / "run" / "model" / "chat_template.jinja").exists()
    assert main(["fit", "--config", "dialogue", "--init_from=run", *short, "--run_dir=next"]) == 0
    assert "with a new head" not in "".join(capfd.readouterr())


def test_a_pretraining_learns_to_converse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path):
    """The run of a pretraining gets the roles' tokens; the run that goes on from it resumes with them."""
    monkeypatch.chdir(tmp_path)
    source = rows_file(tmp_path)
    small = [f"--model.overrides={json.dumps(tiny('gpt2'))}", "--data.vocab_size=400", "--data.max_length=80"]
    short = ["--trainer.accelerator=cpu", "--trainer.max_steps=2"]
    assert main(["fit", "--model=CausalLM", f"--data.train={corpus}", *small, *short, "--run_dir=gpt"]) == 0
    talk = ["--model=Dialogue", f"--data.train={source}", "--data.max_length=80", "--data.max_target_length=20"]
    assert main(["fit", *talk, "--init_from=gpt", *short, "--run_dir=chat"]) == 0
    assert main(["validate", "--run_dir=chat", "--trainer.accelerator=cpu"]) == 0
    kept = Evaluated.read(tmp_path / "chat", "val")
    assert kept is not None
    assert kept.scores
    assert all(re.fullmatch(r"\d+:[1-9]\d*", id_) for id_ in kept.scores), "a conversation and a turn"
    tokenizer = AutoTokenizer.from_pretrained("chat/model")
    before = len(AutoTokenizer.from_pretrained("gpt/model"))
    assert tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"]) == [*range(before, before + 3)]
    assert main(["fit", "--resume=chat", "--trainer.max_steps=3"]) == 0
    network = GPT2LMHeadModel.from_pretrained("chat/model")
    assert network.config.vocab_size == before + 3
    assert network.generation_config.eos_token_id == tokenizer.eos_token_id
