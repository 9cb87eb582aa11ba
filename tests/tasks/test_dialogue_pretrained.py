"""Dialogue on networks that are there before, with a chat template or without; the preset, and runs that go on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import CHATML, chat_tokenizer
from conversing import KINDS, exported, prepared, rows_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ptm_lightning.__main__ import main
from ptm_lightning.scores import Evaluated
from ptm_lightning.testing_case import tiny


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
