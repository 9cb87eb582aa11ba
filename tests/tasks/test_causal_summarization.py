"""Summarization by causal networks: rows, losses and answers as transformers alone makes them of the same texts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from answering import summaries_file, trainer_for, write
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import Summarization, SummarizationData
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ptm_lightning.__main__ import main
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import document

TLDR = "\nTL;DR:"
DATA: dict[str, Any] = {"max_length": 100, "max_target_length": 30, "batch_size": 8, "vocab_size": 400}
LEARNING = {"learning_rate": 3e-3, "max_new_tokens": 12}


def prepared(source: Path, task: dict[str, Any] | None = None, steps: int = 0, **data: Any) -> tuple[Any, Any]:
    task = {"architecture": "gpt2", **(task or {})}
    model = Summarization(**{"overrides": tiny(task["architecture"]), "max_new_tokens": 12, **task})
    module = SummarizationData(train=[str(source)], **(DATA | data))
    saver = ModelCheckpoint(source.parent / "saved", filename="last", every_n_train_steps=max(1, steps))
    trainer_for(source.parent, steps, saver).fit(model, module)
    return model, module


def exported(folder: Path) -> Path:
    return export(folder / "saved" / "last.ckpt", folder / "model", Summarization, settings={})


@pytest.mark.parametrize("algorithm", [None, "wordpiece", "unigram"])
def test_a_row_is_what_the_tokenizer_makes_of_the_whole_text(tmp_path: Path, algorithm: Any):
    """Document, separator and summary, cut from nothing, then the end; the loss reads the summary and the end."""
    _, data = prepared(
        summaries_file(tmp_path), tokenizer_algorithm=algorithm, vocab_size=300, max_length=500, max_target_length=200
    )
    tokenizer: Any = data.hf_tokenizer
    assert (tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids) == (algorithm is not None)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    before = tokenizer("a")["input_ids"][:1]
    for batch in data.val_dataloader():
        width = batch["input_ids"].shape[1]
        for number, row in enumerate(batch["rows"]):
            text = row["document"] + TLDR
            prompt, whole = (
                tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, text + " " + row["summary"])
            )
            real = batch["document_ids"][number] > 0
            assert batch["input_ids"][number][real].tolist() == [*before, *whole, end]
            mine = batch["target_index"] // width == number
            assert batch["targets"][mine].tolist() == [*whole[len(prompt) :], end]
            assert batch["target_index"][mine].tolist() == [
                number * width + len(prompt) + place for place in range(len(whole) - len(prompt) + 1)
            ]
        assert batch["counts"] == {
            "target_text": len(batch["targets"]),
            "tokens": int((batch["document_ids"] > 0).sum()),
        }


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_loss_is_transformers_own(tmp_path: Path, kind: str):
    """With labels that are -100 outside of the summaries; of the batches, and of validation over all rows."""
    task, data = prepared(summaries_file(tmp_path), {"architecture": kind}, validation_share=0.3)
    task.eval()
    nll = count = 0.0
    for batch in data.val_dataloader():
        labels = torch.full_like(batch["input_ids"], -100)
        labels.view(-1)[batch["target_index"] + 1] = batch["targets"]
        with torch.no_grad():
            mask = (batch["document_ids"] > 0).long()
            right = task.network(batch["input_ids"], attention_mask=mask, labels=labels).loss
            term = task.terms(batch)["target_text"]
        assert float(term.sum) / term.count == pytest.approx(float(right), rel=1e-5)
        size = int((labels >= 0).sum())
        assert term.count == size == batch["counts"]["target_text"]
        nll, count = nll + float(right) * size, count + size
    (metrics,) = trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    assert metrics["val/loss"] == pytest.approx(nll / count, rel=1e-5)
    assert {"val/rougeL", "val/rougeL_lead3", "val/perplexity"} <= set(metrics)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}])
def test_answers_are_what_transformers_generates(tmp_path: Path, settings: dict[str, Any]):
    """From the exported folder, for one document at a time; and by its text-generation pipeline."""
    task, data = prepared(summaries_file(tmp_path), LEARNING | settings, steps=30, validation_share=0.3, max_length=200)
    seen: list[Any] = []
    task.measure = lambda *texts: seen.extend(zip(*texts, strict=True)) or {}
    trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    folder = exported(tmp_path)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pipe: Any = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    for document_, answer, _ in seen:
        prompt = tokenizer(document_ + TLDR, return_tensors="pt")
        out = network.generate(**prompt)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(out, skip_special_tokens=True).strip() == answer
        assert pipe(document_ + TLDR, return_full_text=False)[0]["generated_text"].strip() == answer
    assert len({answer for _, answer, _ in seen}) > 1
    assert len(seen) == data.link.target_side["asked"] == 18
    assert '"A text.\\nTL;DR:"' in (folder / "README.md").read_text()


def test_predictions_have_transformers_scores_and_come_in_order(tmp_path: Path):
    task, _ = prepared(summaries_file(tmp_path), LEARNING | {"num_beams": 3, "n_best": 2}, steps=15, max_length=200)
    texts = [document(i) for i in range(12)]
    found = {}
    for size in (1, 5):
        module = SummarizationData(text=texts, batch_size=size)
        found[size] = [row for part in trainer_for(tmp_path, 0).predict(task, module) for row in part]
        assert [row["text"] for row in found[size]] == texts
    assert [row["prediction"] for row in found[1]] == [row["prediction"] for row in found[5]]
    tokenizer: Any = task.tokenizer()
    for row in found[5]:
        prompt = tokenizer(row["text"] + TLDR, return_tensors="pt")
        out = task.network.eval().generate(
            **prompt, generation_config=task.network.generation_config, num_return_sequences=2,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        size = prompt["input_ids"].shape[1]
        right = [tokenizer.decode(ids[size:], skip_special_tokens=True).strip() for ids in out.sequences]
        assert [one["text"] for one in row["answers"]] == right
        assert [one["score"] for one in row["answers"]] == pytest.approx(out.sequences_scores.tolist(), abs=1e-5)


def test_documents_are_cut_and_summaries_stay_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    words = [(5 if i % 2 else 90, 9 if i % 4 else 40) for i in range(40)]
    rows = [{"document": f"{i} " + "river " * many, "summary": "cat " * said} for i, (many, said) in enumerate(words)]
    source = write(tmp_path / "rows.jsonl", rows)
    task, data = prepared(source, max_length=50, max_target_length=16, validation_share=0.25, test_share=0)
    kept = list(data.corpus.train.rows(range(30)))
    for flag, field in (("max_length 50", "document"), ("max_target_length 16", "summary")):
        cut = sum(len(row[field].split()) > 30 for row in kept)
        assert re.search(rf"--data.{flag}: cuts {cut} of 30 training (sources|targets) \({cut / 30:.1%}\)", caplog.text)
    tokenizer = data.hf_tokenizer
    separator = tokenizer(TLDR, add_special_tokens=False)["input_ids"]
    for batch in data.train_dataloader():
        width = batch["input_ids"].shape[1]
        assert width <= 50
        for number in range(len(batch["input_ids"])):
            mine = batch["target_index"] // width == number
            first = int(batch["target_index"][mine][0]) % width + 1
            ids = batch["input_ids"][number].tolist()
            assert ids[first - len(separator) : first] == separator
            assert first <= 50 - 16
            assert batch["targets"][mine][-1] == tokenizer.eos_token_id
            said = tokenizer.decode(batch["targets"][mine], skip_special_tokens=True)
            assert set(said.split()) == {"cat"}
            assert said.startswith(" cat")
    module = SummarizationData(text=["river", "river " * 90])  # lengths and separator are the trained model's
    trainer_for(tmp_path, 0).predict(task, module)
    assert (module.max_length, module.max_target_length) == (50, 16)
    assert "--data.max_length 50: cuts 1 of 2 texts to predict for" in caplog.text
    (batch,) = [module.predict_batch(list(module.predict_inputs()))]
    assert batch["input_ids"].shape[1] == 50 - 16
    assert batch["input_ids"][1, -len(separator) :].tolist() == separator


def test_the_separator_is_told_by_checkpoint_and_folder(tmp_path: Path):
    source = summaries_file(tmp_path)
    task, data = prepared(source, LEARNING, steps=2, separator=" In short:", prefix="Read: ")
    folder = exported(tmp_path)
    again = Summarization.load_from_checkpoint(tmp_path / "saved" / "last.ckpt", weights_only=True)
    texts = [document(i) for i in range(5)]
    found = []
    for model in (task, again, Summarization(backbone=str(folder), max_new_tokens=12)):
        module = SummarizationData(text=texts)
        found.append([row["prediction"] for part in trainer_for(tmp_path, 0).predict(model, module) for row in part])
        batch = module.predict_batch(list(module.predict_inputs()))
        assert (module.max_length, module.max_target_length) == (100, 30)
        ids = batch["input_ids"][0][batch["document_ids"][0] > 0]
        assert data.hf_tokenizer.decode(ids, skip_special_tokens=True) == f"Read: {texts[0]} In short:"
    assert found[0] == found[1] == found[2]
    _, next_data = prepared(source, {"backbone": str(folder), "overrides": None})
    assert next_data.link.target_side["separator"] == " In short:"
    _, next_data = prepared(source, {"backbone": str(folder), "overrides": None}, separator=TLDR)
    assert next_data.link.target_side["separator"] == TLDR


def test_a_pretrained_network_without_padding(tmp_path: Path):
    """As GPT-2's own: what ends a text fills rows, too, and nothing stands before a document."""
    folder = tmp_path / "gpt"
    tokenizer = train_tokenizer([document(i) for i in range(40)], "gpt2", 320, 100)
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.post_processor = None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=100, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    task, data = prepared(
        summaries_file(tmp_path), {"backbone": str(folder), "overrides": None} | LEARNING, steps=2, vocab_size=8192
    )
    batch: Any = next(iter(data.val_dataloader()))
    assert batch["padded"]
    assert batch["input_ids"][batch["document_ids"] == 0].eq(0).all()
    assert (batch["targets"] == 0).sum() == len(batch["input_ids"])
    assert task.network.generation_config.pad_token_id == task.network.generation_config.eos_token_id == 0
    assert batch["input_ids"][0, 0] != 0
    exported(tmp_path)


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ({"architecture": "bart"}, {"separator": " In short:"}, r"--data.separator: an encoder-decoder reads"),
        ({}, {"separator": ""}, r"--data.separator: give a text"),
        ({}, {"separator": "\n", "tokenizer_algorithm": "wordpiece"}, r"'\\n': the tokenizer gives it no"),
        ({}, {"separator": "TL;DR:"}, r"'TL;DR:': .* begin it with a line break or a space"),
        ({}, {"separator": "\n", "tokenizer_algorithm": "unigram"}, r"'\\n': the tokenizer joins its end"),
        ({}, {"max_length": 30}, r"--data.max_target_length 30: leaves no room in a row of --data.max_length 30"),
        ({}, {"max_length": 36}, r"--data.max_length 36: no room beside . special tokens and --data.max_target_len"),
        ({"max_new_tokens": 31}, {}, r"--model.max_new_tokens 31: the model has 100 positions, and 70 .* at most 30"),
        (
            {"architecture": "bert"},
            {"tokenizer_algorithm": "wordpiece"},
            r"bert: its predictions see later tokens; .* gpt2, llama or qwen3, or an encoder-decoder, such as bart",
        ),
        ({"architecture": "vit"}, {}, r"--model.architecture vit: .*has no ModelForCausalLM of vit; take .*gpt2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, task: dict[str, Any], data: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        prepared(summaries_file(tmp_path), {"max_new_tokens": None} | task, **data)


def test_repeating_what_stands_in_the_document_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    prepared(summaries_file(tmp_path), {"no_repeat_ngram_size": 3})
    assert "--model.no_repeat_ngram_size 3: of a causal network" in caplog.text


def test_a_pretraining_learns_to_sum_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, corpus: Path):
    """Through the real command line: a GPT's run goes on, is resumed and tested, and predicts as its export does."""
    monkeypatch.chdir(tmp_path)
    summaries_file(tmp_path)
    small = [f"--model.overrides={json.dumps(tiny('gpt2'))}", "--data.vocab_size=400", "--data.max_length=100"]
    short = ["--trainer.accelerator=cpu", "--trainer.max_steps=2"]
    assert main(["fit", "--model=CausalLM", f"--data.train={corpus}", *small, *short, "--run_dir=gpt"]) == 0
    sums = ["--model=Summarization", "--data.train=rows.jsonl", "--data.max_length=100", "--data.max_target_length=30"]
    assert main(["fit", *sums, "--init_from=gpt", *short, "--run_dir=run", "--data.separator= In short:"]) == 0
    assert main(["fit", "--resume=run", "--trainer.max_steps=3"]) == 0
    capfd.readouterr()
    assert main(["test", "--run_dir=run", "--trainer.accelerator=cpu"]) == 0
    screen = capfd.readouterr().out
    assert all(f"test/{name} " in screen for name in ("rougeL", "rougeL_lead3"))
    asked = write(tmp_path / "asked.jsonl", [{"document": document(i), "id": f"d{i}"} for i in range(5)])
    answers = []
    for model in (["--run_dir=run"], ["--model=Summarization", "--model.backbone=run/model"]):
        ask = ["predict", *model, f"--data.predict={asked}", "--model.num_beams=2", "--model.n_best=2"]
        assert main([*ask, "--model.max_new_tokens=6", "--trainer.accelerator=cpu"]) == 0
        rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [row["id"] for row in rows] == [f"d{i}" for i in range(5)]
        assert rows[0].keys() == {"id", "text", "prediction", "score", "answers"}
        answers.append([row["prediction"] for row in rows])
    assert answers[0] == answers[1]
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["task_specific_params"] == {"summarization": {"separator": " In short:", "max_new_tokens": 30}}
