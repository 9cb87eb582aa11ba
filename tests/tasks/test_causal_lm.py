"""Causal language modelling, against transformers' own loss and readable loops."""

import json
import re
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks.causal_lm import CausalLM, CausalLMData, next_places
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptm_lightning.__main__ import main
from ptm_lightning.data.batch import Batch
from ptm_lightning.errors import UserError
from ptm_lightning.testing_case import tiny


def ready(corpus: Path, architecture: str = "gpt2", **data: Any) -> tuple[CausalLM, CausalLMData, Trainer]:
    task = CausalLM(architecture=architecture, overrides=tiny(architecture))
    settings: dict[str, Any] = {"vocab_size": 400, "max_length": 32, "batch_tokens": 512, "validation_share": 0.1}
    module = CausalLMData(train=[str(corpus)], **(settings | data))
    trainer = Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(task, module)
    return task.eval(), module, trainer


def own_labels(batch: Batch) -> torch.Tensor:
    """(R, T) labels as transformers takes them, which it shifts itself."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["target_index"] + 1] = batch["targets"]
    return labels


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_the_loss_is_transformers_own(corpus: Path, architecture: str, layout: str):
    task, data, _ = ready(corpus, architecture, layout=layout)
    for batch in list(data.train_dataloader())[:3]:
        term = task.terms(batch)["clm"]
        network = task.network
        assert network is not None
        theirs = network(
            input_ids=batch["input_ids"], attention_mask=(batch["document_ids"] > 0).long(), labels=own_labels(batch)
        ).loss
        torch.testing.assert_close(term.sum / term.count, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_packed_documents_are_predicted_as_if_alone(corpus: Path, architecture: str):
    task, data, _ = ready(corpus, architecture, layout="packed", split_text="line", max_length=64)
    batch = next(batch for batch in data.train_dataloader() if int(batch["document_ids"].max()) > 2)
    logits, network = task.logits_at_targets(batch), task.network
    assert network is not None
    places = batch["target_index"].tolist()
    for row in range(2):
        for number in range(1, int(batch["document_ids"][row].max()) + 1):
            (columns,) = torch.nonzero(batch["document_ids"][row] == number, as_tuple=True)
            alone = network(input_ids=batch["input_ids"][row, columns][None]).logits[0, :-1]
            flat = (row * batch["input_ids"].shape[1] + columns[:-1]).tolist()
            mine = logits[[places.index(place) for place in flat]]
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-5)


def test_next_places_in_words():
    documents = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 0, 0]])
    expected = [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert next_places(documents).astype(int).tolist() == expected


@pytest.mark.parametrize("layout", ["rows", "packed", "blocks"])
def test_validation_predicts_every_token_of_every_document_once(corpus: Path, layout: str):
    _, data, _ = ready(corpus, layout=layout)
    end = data.frame.after[0]
    store, seen = data.corpus.validation, np.concatenate([batch["targets"].numpy() for batch in data.val_dataloader()])
    assert np.diff(store.offsets).max() > data.max_length  # some are cut, which is no end
    assert sorted(seen.tolist()) == sorted([*store.tokens.tolist(), *[end] * len(store)])
    total = sum(batch["bytes"] for batch in data.val_dataloader())
    assert total == pytest.approx(data.corpus.validation.info["bytes"])


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_only_a_whole_document_begins_and_ends(corpus: Path, layout: str):
    _, data, _ = ready(corpus, layout=layout)
    store = data.corpus.train
    (begin,), (end,) = data.frame
    pieces: dict[str, int] = {}
    for batch in data.train_dataloader():
        for ids, numbers in zip(batch["input_ids"], batch["document_ids"], strict=True):
            for number in range(1, int(numbers.max()) + 1):
                text = " ".join(map(str, ids[numbers == number].tolist()))
                pieces[text] = pieces.get(text, 0) + 1
    wholes = [[begin, *store.tokens[a:b].tolist(), end] for a, b in pairwise(store.offsets)]
    expected: dict[str, int] = {}
    for whole in wholes:
        text, longest = whole[1:-1], data.max_length - 2
        count = -(-len(text) // longest)
        edges = [i * len(text) // count for i in range(count + 1)]
        for a, b in pairwise(edges):
            piece = whole[a : b + 1] if b < len(text) else whole[a:]
            key = " ".join(map(str, piece))
            expected[key] = expected.get(key, 0) + 1
    assert max(len(whole) for whole in wholes) > data.max_length
    assert pieces == expected


def test_blocks_are_one_stream_with_end_of_text_between_documents(corpus: Path):
    _, data, _ = ready(corpus, layout="blocks")
    end, store = data.frame.after[0], data.corpus.train
    texts = [store.tokens[a:b].tolist() for a, b in pairwise(store.offsets)]
    stream = " ".join(str(token) for text in texts for token in [*text, end])
    assert data.frame.before == (end,)
    for batch in data.train_dataloader():
        for ids, real in zip(batch["input_ids"], batch["document_ids"] > 0, strict=True):
            parts = " ".join(map(str, ids[real].tolist())).split(f" {end} ")
            assert all(part.removesuffix(f" {end}") in stream for part in parts)


def test_bits_per_byte_and_perplexity_are_over_all_tokens(corpus: Path):
    task, data, trainer = ready(corpus)
    network = task.network
    assert network is not None
    metrics = trainer.validate(task, data, verbose=False)[0]
    nats = count = 0.0
    store = data.corpus.validation
    longest = data.max_length - 2
    for begin, stop in pairwise(store.offsets):
        whole = [*data.frame.before, *store.tokens[begin:stop].tolist(), *data.frame.after]
        size = stop - begin
        pieces = -(-size // longest)
        edges = [i * size // pieces for i in range(pieces + 1)]
        for a, b in pairwise(edges):
            ids = torch.tensor([whole[a : b + 1 + (b == size)]])
            loss = network(input_ids=ids, labels=ids).loss
            nats, count = nats + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    assert count == len(store.tokens) + len(store)
    assert metrics["val/loss"] == pytest.approx(nats / count, rel=1e-4)
    assert metrics["val/perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-3)
    assert metrics["val/bits_per_byte"] == pytest.approx(nats / log(2) / store.info["bytes"], rel=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlnet"])
def test_a_network_that_sees_what_it_predicts_is_refused(corpus: Path, architecture: str):
    with pytest.raises(UserError, match=f"--model.architecture {architecture}: its predictions see later tokens"):
        ready(corpus, architecture, tokenizer_algorithm="unigram")


def test_a_tokenizer_without_an_end_is_refused(corpus: Path, tmp_path: Path):
    _, data, _ = ready(corpus)
    known = data.hf_tokenizer
    known.eos_token = known.sep_token = None
    known.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no end-of-text token"):
        ready(corpus, tokenizer=str(tmp_path))


def test_padding_with_the_end_of_text_still_learns_to_stop(corpus: Path, tmp_path: Path):
    _, data, _ = ready(corpus)
    known = data.hf_tokenizer
    known.pad_token = known.eos_token
    known.save_pretrained(tmp_path)
    _, data, _ = ready(corpus, tokenizer=str(tmp_path), split_text="line", batch_tokens=256)
    ends = [int((batch["targets"] == known.eos_token_id).sum()) for batch in data.val_dataloader()]
    assert sum(ends) == len(data.corpus.validation)  # once a document, never for padding


def test_the_command_line_trains_continues_and_exports(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run = str(tmp_path / "run")
    size = [f"--model.overrides={json.dumps(tiny('gpt2'))}", "--data.vocab_size=400", "--data.max_length=32"]
    arguments = ["--config", "gpt", "--data.train", str(corpus), *size, "--trainer.max_steps=4", "--run_dir", run]
    assert main(["fit", *arguments]) == 0
    screen = capfd.readouterr().out
    assert "generated" in screen
    assert '--text "Returns a"' in screen
    greedy = ["predict", "--run_dir", run, "--model.max_new_tokens=5"]
    answers = []
    for more in ([], ["--model.temperature=2.0"], ["--model.temperature=2.0"]):
        assert main([*greedy, *more, "--text=The with statement", "--text=A"]) == 0
        answers.append([json.loads(line) for line in capfd.readouterr().out.splitlines()])
    assert [row["id"] for row in answers[0]] == ["0", "1"]
    assert answers[1] == answers[2] != answers[0]
    assert main(["predict", "--run_dir", run, "--model.size=mini", "--text=A"]) == 2
    assert main(["predict", "--run_dir", run, "--text=A"]) == 2
    assert "--model.max_new_tokens 40: the model has 32 positions" in capfd.readouterr().err
    folder = f"{run}/model"
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([[tokenizer.eos_token_id, *tokenizer("A", add_special_tokens=False)["input_ids"]]])
    out = network.generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True) == answers[0][1]["prediction"]


def test_each_validation_keeps_and_shows_samples_once(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    size = [f"--model.overrides={json.dumps(tiny('gpt2'))}", "--data.vocab_size=400", "--data.max_length=32"]
    arguments = ["--config", "gpt", "--data.train", str(corpus), *size, "--run_dir", str(run)]
    assert main(["fit", *arguments, "--trainer.max_steps=4"]) == 0
    screen = capfd.readouterr().err
    assert re.search(r"validation at step 4: .*\n  prompt    .+\n  generated .*\n  text      .+\n", screen)

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]

    first = rows()
    assert [row["step"] for row in first] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    assert all(set(row) == {"step", "table", "prompt", "generated", "text"} for row in first)
    with open(run / "samples.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "table": "val/samples", "prompt": "after the checkpoint"}\n')
    assert main(["fit", "--resume", str(run), "--trainer.max_steps=6"]) == 0
    assert rows()[: len(first)] == first
    assert [(row["step"], row["prompt"]) for row in rows()[len(first) :]] == [
        (step, row["prompt"]) for step in (5, 6) for row in first[:4]
    ]


def test_prompts_of_different_length_continue_as_if_alone(corpus: Path):
    task, data, _ = ready(corpus)
    texts = ["The", "The with statement is used", "A class"]
    ids = [[*data.frame.before, *data.hf_tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    assert task._continue(ids) == [task._continue([prompt])[0] for prompt in ids]
