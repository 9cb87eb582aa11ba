"""Span corruption, against transformers' own loss and the text that it came from."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from corrupting import TEXT, TINY, prepared
from ptm_lightning.tasks import SpanCorruption, SpanCorruptionData
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ptm_lightning import testing
from ptm_lightning.data.seq2seq import prompts, target_rows
from ptm_lightning.data.span_corruption import restore
from ptm_lightning.export import export
from ptm_lightning.models.rows import only_rows
from ptm_lightning.testing import check_task

GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # T5 v1.1: the hidden state isn't scaled
CHINESE = "我们在北京学习语言模型。今天天气很好,他们去公园散步!你喜欢什么书?"


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    path = tmp_path / "chinese.txt"
    path.write_text("\n\n".join(CHINESE[i % 30 :] + CHINESE * (1 + i % 4) + str(i) for i in range(60)))
    return path


@pytest.mark.parametrize(
    ("architecture", "overrides"), [("t5", {}), ("t5", GATED), ("bart", {})], ids=["t5", "t5 v1.1", "bart"]
)
def test_loss_logits_and_gradient_equal_transformers(
    corpus: Path, tmp_path: Path, architecture: str, overrides: dict[str, Any]
):
    task, data = prepared(corpus, tmp_path, {"architecture": architecture, "overrides": overrides})
    batch: Any = next(iter(data.train_dataloader()))
    assert batch["padded"]
    network: Any = task.eval().network
    term = task.terms(batch)["spans"]
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
    with torch.no_grad(), only_rows(network, batch["target_index"]):
        some = network(**task.inputs(batch)).logits[0]
    torch.testing.assert_close(some, theirs.logits.flatten(0, 1)[batch["target_index"]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_inputs_and_targets_rebuild_the_text(
    corpus: Path, chinese: Path, tmp_path: Path, layout: str, algorithm: str, language: str
):
    source = corpus if language == "english" else chinese
    _, data = prepared(source, tmp_path, layout=layout, tokenizer_algorithm=algorithm)
    before, after = map(list, data.frame)
    seen: Counter[int] = Counter()
    tokens, longest, padded = 0, 0, 0
    sentinels = data.sentinels.tolist()
    for batch in data.train_dataloader():
        for inputs, targets in zip(prompts(batch), target_rows(batch), strict=True):
            used = [token for token in inputs if token in set(sentinels)]
            assert used == [token for token in targets if token in set(sentinels)] == sentinels[: len(used)]
            text = restore(inputs, targets, sentinels)
            assert (text[: len(before)], text[len(text) - len(after) :]) == (before, after)
            seen.update(text[len(before) : len(text) - len(after)])
        assert batch["targets"][batch["decoder_lengths"].cumsum(0) - 1].eq(after[-1]).all()
        tokens += batch["counts"]["tokens"]
        longest = max(longest, batch["input_ids"].shape[1])
        padded += int((batch["document_ids"] == 0).any(dim=1).sum())
    assert seen == Counter(data.corpus.train.tokens.tolist())
    assert tokens == data.plan.chunk(0, 0).tokens.sum()
    assert longest <= data.max_length
    if layout == "blocks":
        assert longest == data.max_length
        assert padded <= 1  # the last row of the stream


def test_decoder_reads_the_targets_one_place_later(corpus: Path, tmp_path: Path):
    for architecture in ("t5", "bart"):
        task, data = prepared(corpus, tmp_path, {"architecture": architecture})
        batch: Any = next(iter(data.train_dataloader()))
        read = task.inputs(batch)["decoder_input_ids"]
        start = task.network.config.decoder_start_token_id
        assert start == (data.hf_tokenizer.pad_token_id if architecture == "t5" else data.frame.after[-1])
        for row, targets in zip(read.tolist(), target_rows(batch), strict=True):
            assert row[: len(targets) + 1] == [start, *targets]


def test_no_target_sees_itself_or_what_follows(corpus: Path, tmp_path: Path):
    """Changing a target and all after it changes no logits up to it."""
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.train_dataloader()))
    task.eval()
    with torch.no_grad():
        before = task.logits_at_targets(batch)
        batch["decoder_input_ids"][:, 4:] = 7
        after = task.logits_at_targets(batch)
    column = batch["target_index"] % batch["decoder_input_ids"].shape[1]
    torch.testing.assert_close(before[column < 4], after[column < 4], rtol=0, atol=1e-6)
    assert not torch.allclose(before[column >= 4], after[column >= 4])


def test_metrics_equal_a_loop(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    right = batch["targets"].clone()
    right[::7] = 5  # guesses, some of them wrong
    logits = torch.nn.functional.one_hot(right, task.link.vocabulary).float()
    task.eval().logits_at_targets = lambda _: logits
    terms = task.terms(batch)
    sentinels = set(data.sentinels.tolist())
    guessed = [row.tolist() for row in right.split(batch["decoder_lengths"].tolist())]
    exact = spans = hits = words = 0
    for row, guess in zip(target_rows(batch), guessed, strict=True):
        good: list[bool] = []
        for token, said in zip(row, guess[:-1], strict=True):
            if token in sentinels:
                good.append(True)
                continue
            hits, words = hits + (token == said), words + 1
            good[-1] &= token == said
        exact, spans = exact + sum(good), spans + len(good)
    assert (int(terms["exact_spans"].sum), int(terms["exact_spans"].count)) == (exact, spans)
    assert (int(terms["accuracy_text"].sum), int(terms["accuracy_text"].count)) == (hits, words)
    assert int(terms["accuracy"].sum) == int((right == batch["targets"]).sum())
    assert len(batch["fresh"]) == len(batch["targets"])
    marks = torch.isin(batch["targets"], torch.tensor(data.sentinels))
    assert not (batch["fresh"] & marks).any()


def test_examples_show_both_sides(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    examples = task.examples(batch)
    assert len(examples) == len(batch["input_ids"])
    assert list(examples[0]) == ["input", "target", "generated"]
    assert "<extra_id_0>" in examples[0]["input"]
    assert examples[0]["target"].startswith("<extra_id_0>")
    assert data.show_row(batch, 0).splitlines()[1].startswith("targets: <extra_id_0> ")


def test_predictions_fill_sentinels_and_the_export_generates(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    sentinel, other, end = *task._sentinels[:2], task.network.config.eos_token_id
    word = task.tokenizer().convert_tokens_to_ids("the")
    task.answers = lambda batch: [[sentinel, word, word, other, word]] * len(batch["texts"])
    texts = ["a <extra_id_0> b <extra_id_1>, and <extra_id_2>", "<extra_id_1> b"]
    rows = [row for part in task.trainer.predict(task, SpanCorruptionData(text=texts)) for row in part]
    assert [row["prediction"] for row in rows] == ["a the the b the, and <extra_id_2>", "the b"]
    assert rows[0]["spans"] == {"<extra_id_0>": "the the", "<extra_id_1>": "the"}
    del task.answers
    task.trainer.save_checkpoint(tmp_path / "step.ckpt")
    folder = export(tmp_path / "step.ckpt", tmp_path / "model", SpanCorruption, settings={})
    loaded, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    coded = tokenizer("a <extra_id_0> b", return_tensors="pt").input_ids
    assert coded[0, -1] == end == loaded.generation_config.eos_token_id
    batch = {"texts": [("0", "")], "input_ids": coded, "document_ids": torch.ones_like(coded)}
    answer = loaded.generate(coded, max_new_tokens=task.link.max_length)[0].tolist()
    assert answer[0] == loaded.generation_config.decoder_start_token_id
    ours = task.answers(batch)[0]
    assert answer[1 : 1 + len(ours)] == ours


@pytest.mark.parametrize("clause", ["export_is_equal", "resume_is_equal"])
def test_gated_networks_keep_the_contract(clause: str):
    arguments = {"overrides": TINY["t5"] | GATED}
    check_task(SpanCorruption, arguments=arguments, clauses=[getattr(testing, clause)], **TEXT)
