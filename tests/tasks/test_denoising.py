"""BART's denoising, against transformers' own loss and the text that it came from."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answering import trainer_for
from corrupting import TINY
from ptm_lightning.tasks import Denoising, DenoisingData
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ptm_lightning.data.predict import Text
from ptm_lightning.data.seq2seq import prompts, target_rows
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.testing import Clause, check_task, noise_ignores_the_batch, workers_give_equal_batches

CHINESE = "我们在北京学习语言模型。今天天气很好,他们去公园散步!你喜欢什么书?"


def prepared(corpus: Path, tmp_path: Path, architecture: str = "bart", **data: Any) -> tuple[Denoising, DenoisingData]:
    arguments = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 600}
    module = DenoisingData(**(arguments | {"validation_share": 0.1} | data))
    model = Denoising(architecture=architecture, overrides=TINY[architecture])
    trainer_for(tmp_path, 0).fit(model, module)
    return model, module


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    path = tmp_path / "chinese.txt"
    path.write_text("\n\n".join(CHINESE[i % 30 :] + CHINESE * (1 + i % 4) + str(i) for i in range(60)))
    return path


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_loss_and_gradient_equal_transformers(corpus: Path, tmp_path: Path, architecture: str):
    task, data = prepared(corpus, tmp_path, architecture)
    batch: Any = next(iter(data.train_dataloader()))
    assert batch["padded"]
    network: Any = task.eval().network
    term = task.terms(batch)["denoising"]
    (term.sum / term.count).backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    task.zero_grad()
    labels = torch.full_like(batch["decoder_input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    labels = labels.view_as(batch["decoder_input_ids"])
    theirs = network(input_ids=batch["input_ids"], attention_mask=(batch["document_ids"] > 0).long(), labels=labels)
    theirs.loss.backward()
    torch.testing.assert_close(term.sum / term.count, theirs.loss, rtol=1e-5, atol=1e-6)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_targets_are_the_text_and_inputs_hide_whole_words(
    corpus: Path, chinese: Path, tmp_path: Path, layout: str, algorithm: str, language: str
):
    source = corpus if language == "english" else chinese
    _, data = prepared(source, tmp_path, layout=layout, tokenizer_algorithm=algorithm, permute_sentences=False)
    tokenizer, mask = data.hf_tokenizer, data.hf_tokenizer.mask_token_id
    seen: Counter[int] = Counter()
    hidden = total = 0
    for batch in data.train_dataloader():
        for inputs, targets in zip(prompts(batch), target_rows(batch), strict=True):
            target = [*targets, data.frame.after[-1]]
            first, last = len(data.frame.before), -len(data.frame.after)
            assert (inputs[:first], inputs[last:]) == (target[:first], target[last:])
            assert len(inputs) <= len(target) <= data.max_length
            seen.update(target[first:last])
            hidden += len(target) - len(inputs) + inputs.count(mask)
            total += len(target) + last - first
            at = 0
            for token in inputs:  # what isn't hidden stands in its order
                if token != mask:
                    at = target.index(token, at) + 1
            if algorithm == "wordpiece":
                pieces = tokenizer.convert_ids_to_tokens(inputs)
                assert not [p for p, q in pairwise(pieces) if p == "[MASK]" and q[:2] == "##"]
    assert seen == Counter(data.corpus.train.tokens.tolist())
    assert abs(hidden / total - 0.3) < 0.05


@pytest.mark.parametrize("permute", [True, False])
def test_permuted_sentences_are_those_of_the_text(corpus: Path, tmp_path: Path, permute: bool):
    """With nothing hidden but one word in a row, the other words are there, in another order if it is asked for."""
    _, data = prepared(corpus, tmp_path, mask_rate=1e-6, mean_span=1.0, permute_sentences=permute)
    moved = 0
    mask = data.hf_tokenizer.mask_token_id
    for batch in data.train_dataloader():
        for inputs, targets in zip(prompts(batch), target_rows(batch), strict=True):
            rest = Counter(targets)
            rest.subtract(token for token in inputs if token not in (mask, data.frame.after[-1]))
            assert min(rest.values()) >= 0
            kept = [token for token in inputs if token != mask][:-1]
            reader = iter(targets)
            moved += not all(token in reader for token in kept)
    assert (moved > 50) == permute, moved
    assert moved == 0 or permute


@pytest.mark.parametrize("clause", [noise_ignores_the_batch, workers_give_equal_batches])
def test_stored_sentences_keep_the_contract(clause: Clause):
    check_task(Denoising, data={"sentences": "rules"}, clauses=[clause])


def test_decoder_starts_with_the_end_as_in_bart(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path, tokenizer_algorithm="bpe")
    batch: Any = next(iter(data.train_dataloader()))
    read = task.inputs(batch)["decoder_input_ids"]
    tokenizer = data.hf_tokenizer
    assert read[:, 0].eq(tokenizer.eos_token_id).all()
    assert read[:, 1].eq(tokenizer.bos_token_id).all()
    assert batch["targets"][batch["decoder_lengths"].cumsum(0) - 1].eq(tokenizer.eos_token_id).all()
    for row, targets in zip(read.tolist(), target_rows(batch), strict=True):
        assert row[1 : len(targets) + 1] == targets


def test_predictions_and_the_export_generate(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path, tokenizer_algorithm="bpe")
    word = data.hf_tokenizer("the value", add_special_tokens=False).input_ids
    task.answers = lambda batch: [[data.hf_tokenizer.bos_token_id, *word]] * len(batch["texts"])
    texts = ["the <mask>", "a text without any"]
    asked = task.trainer.datamodule.predict_batch([Text("0", "the <mask> value")])
    assert prompts(asked)[0][1:-1] == [word[0], data.hf_tokenizer.mask_token_id, *word[1:]]
    rows = [row for part in task.trainer.predict(task, DenoisingData(text=texts)) for row in part]
    assert rows == [{"id": str(i), "text": text, "prediction": "the value"} for i, text in enumerate(texts)]
    del task.answers
    task.trainer.save_checkpoint(tmp_path / "step.ckpt")
    folder = export(tmp_path / "step.ckpt", tmp_path / "model", Denoising, settings={})
    loaded, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    coded = tokenizer("the <mask>", return_tensors="pt").input_ids
    batch: Any = {"input_ids": coded, "document_ids": torch.ones_like(coded)}
    answer = loaded.generate(coded, max_new_tokens=task.link.max_length)[0].tolist()
    assert answer[0] == tokenizer.eos_token_id == loaded.generation_config.decoder_start_token_id
    ours = task.answers(batch)[0]
    assert answer[1 : 1 + len(ours)] == ours


def test_metrics_and_examples(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    terms = task.eval().terms(batch)
    assert set(terms) == {"denoising", "accuracy", "loss_new_sentences"}
    assert len(batch["fresh"]) == len(batch["targets"])
    metrics = task.finish_metrics({"val/loss": 2.0}, "val")
    assert np.isclose(metrics["val/perplexity"], np.exp(2.0))
    examples = task.examples(batch)
    assert len(examples) == len(batch["input_ids"])
    assert "[MASK]" in examples[0]["input"]
    assert "[MASK]" not in examples[0]["target"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "packed"}, "--data.layout packed: an encoder-decoder can't isolate packed documents"),
        ({"mask_rate": 0.0}, "--data.mask_rate 0.0: give a share between 0 and 1"),
        ({"mean_span": -1.0}, "--data.mean_span -1.0: give a number of words above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        DenoisingData(**arguments)


def test_data_that_cannot_be_denoised_is_refused(corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--data.max_length 3: a row takes 2 special tokens and needs two of text"):
        prepared(corpus, tmp_path, max_length=3)
    bare = train_tokenizer(["the cat sat on the mat"] * 9, "wordpiece", 60, 64)
    bare.mask_token = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="has no mask token"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "bare"))
