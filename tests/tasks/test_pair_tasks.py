"""Next sentence and sentence order prediction, against transformers' own losses and the text itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import NextSentence, NextSentenceData, SentenceOrder, SentenceOrderData
from transformers import AlbertForPreTraining, BertForPreTraining

from ptm_lightning.data.pair_module import PairText
from ptm_lightning.errors import UserError
from ptm_lightning.pair_task import PairTask

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BOTH = [NextSentence, SentenceOrder]
THEIRS = {NextSentence: BertForPreTraining, SentenceOrder: AlbertForPreTraining}
LABEL = {NextSentence: "next_sentence_label", SentenceOrder: "sentence_order_label"}


def prepared(
    task_class: type[PairTask], corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, **data: Any
) -> tuple[Any, Any]:
    arguments = {
        "train": [str(corpus)],
        "vocab_size": 600,
        "max_length": 48,
        "batch_tokens": 600,
        "validation_share": 0.1,
    }
    module = task_class.data_class(**(arguments | data))
    model = task_class(**({"overrides": TINY} | (task or {})))
    trainer = Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model, module


def labels_of(batch: Any) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    return labels.view_as(batch["input_ids"])


@pytest.mark.parametrize("task_class", BOTH)
def test_loss_and_gradient_equal_transformers(corpus: Path, tmp_path: Path, task_class: type[PairTask]):
    task, data = prepared(task_class, corpus, tmp_path)
    assert type(task.network) is THEIRS[task_class]
    batch = next(iter(data.train_dataloader()))
    terms = task.eval().terms(batch)
    loss = terms["mlm"].sum / terms["mlm"].count + terms[task.pair_term].sum / terms[task.pair_term].count
    loss.backward()
    ours = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    task.zero_grad()
    output = task.network(
        input_ids=batch["input_ids"],
        attention_mask=(batch["document_ids"] > 0).long(),
        token_type_ids=batch["token_type_ids"],
        labels=labels_of(batch),
        **{LABEL[task_class]: batch["labels"]},
    )
    output.loss.backward()
    torch.testing.assert_close(loss, output.loss, rtol=1e-5, atol=1e-6)
    for name, parameter in task.network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)
    assert terms[f"{task.pair_term}_accuracy"].count == len(batch["labels"])


@pytest.mark.parametrize("fault", ["labels", "token_type_ids"])
def test_a_fault_in_the_batch_changes_the_loss(corpus: Path, tmp_path: Path, fault: str):
    """The test above is worth something: the loss depends on labels and segments."""
    task, data = prepared(NextSentence, corpus, tmp_path)
    batch = next(iter(data.train_dataloader()))
    before = task.eval().terms(batch)["nsp"].sum
    after = task.terms({**batch, fault: 1 - batch[fault]})["nsp"].sum
    assert abs(before - after) > 1e-4


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("task_class", BOTH)
def test_rows_are_two_segments_of_the_text(corpus: Path, tmp_path: Path, task_class: type[PairTask], algorithm: str):
    _, data = prepared(task_class, corpus, tmp_path, tokenizer_algorithm=algorithm)
    tokenizer = data.hf_tokenizer
    text = f" {' '.join(map(str, data.corpus.train.tokens.tolist()))} "
    for batch in data.train_dataloader():
        ids = batch["input_ids"].clone().flatten()
        ids[batch["target_index"]] = batch["targets"]
        assert batch["counts"][data.pair_term] == len(batch["labels"]) == len(batch["input_ids"])
        columns = (ids.view_as(batch["input_ids"]), batch["token_type_ids"], batch["document_ids"] > 0, batch["labels"])
        for row, types, real, label in zip(*columns, strict=True):
            assert types[~real].sum() == 0
            first, second = row[real & (types == 0)].tolist(), row[real & (types == 1)].tolist()
            assert row[real].tolist() == first + second
            assert (first[0], first[-1], second[-1]) == (
                tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id,
            )  # fmt: skip
            segments = [" ".join(map(str, part)) for part in (first[1:-1], second[:-1])]
            assert all(f" {segment} " in text for segment in segments)
            if len(first) + len(second) < data.max_length:  # not cut: what follows is known
                together = " ".join(segments if label == 0 or task_class is NextSentence else segments[::-1])
                assert (f" {together} " in text) == (label == 0 or task_class is SentenceOrder)


def test_ngrams_are_masked_by_default(corpus: Path, tmp_path: Path):
    _, data = prepared(SentenceOrder, corpus, tmp_path)
    single = SentenceOrderData(train=[str(corpus)], masking="token")
    assert (data.masking, single.masking) == ("ngram", "token")
    gaps = torch.cat([torch.diff(batch["target_index"]) for batch in data.train_dataloader()])
    assert float((gaps == 1).float().mean()) > 0.3  # 0.15 with single tokens


def test_metrics_have_both_losses_and_accuracies(corpus: Path, tmp_path: Path):
    task, data = prepared(NextSentence, corpus, tmp_path)
    (metrics,) = task.trainer.validate(task, data, verbose=False)
    assert {"val/loss", "val/mlm_loss", "val/nsp_loss", "val/mlm_accuracy", "val/nsp_accuracy", "val/mlm_perplexity",
            "val/mlm_loss_new_sentences"} <= set(metrics)  # fmt: skip
    assert metrics["val/loss"] == pytest.approx(metrics["val/mlm_loss"] + metrics["val/nsp_loss"])


def test_examples_show_labels_and_guesses(corpus: Path, tmp_path: Path):
    task, data = prepared(NextSentence, corpus, tmp_path)
    batch = next(iter(data.val_dataloader()))
    rows = task.eval().examples(batch)
    assert [row["nsp"][0] for row in rows] == [str(label) for label in batch["labels"].tolist()]
    assert all(row["nsp"][1:-1] == ", guessed " for row in rows)


def test_rows_are_new_each_epoch_and_the_same_in_validation(corpus: Path, tmp_path: Path):
    _, data = prepared(NextSentence, corpus, tmp_path)
    rows = [data.plan.chunk(epoch, 0).pieces.start.tolist() for epoch in (0, 1)]
    assert rows[0] != rows[1]
    first, again = ([batch["input_ids"].tolist() for batch in data.val_dataloader()] for _ in range(2))
    assert first == again


def test_chinese(tmp_path: Path):
    # ruff: noqa: RUF001 - full-width punctuation is meant
    lines = [f"第{i}天下雨了。我们在家里看书！你去哪{i * 7 % 11}了？他回来了🙂。" for i in range(80)]
    (tmp_path / "zh.txt").write_text("\n\n".join(lines), encoding="utf-8")
    _, data = prepared(NextSentence, tmp_path / "zh.txt", tmp_path, vocab_size=300)
    shown = [data.show_row(batch, row) for batch in data.train_dataloader() for row in range(len(batch["labels"]))]
    assert {row.rpartition("-> ")[2] for row in shown} == set(data.label_names)


def test_masks_are_filled(corpus: Path, tmp_path: Path):
    task, _ = prepared(NextSentence, corpus, tmp_path)
    (rows,) = task.trainer.predict(task, NextSentenceData(text=["the [MASK] of it", "a [MASK]"]))
    assert [row["text"] for row in rows] == ["the [MASK] of it", "a [MASK]"]
    assert all("[MASK]" not in row["prediction"] for row in rows)


@pytest.mark.parametrize(
    ("data_class", "arguments", "message"),
    [
        (NextSentenceData, {"layout": "packed"}, "--data.layout packed: pairs of segments have rows of their own"),
        (SentenceOrderData, {"layout": "blocks"}, "--data.layout blocks: pairs"),
        (NextSentenceData, {"max_length": 6}, "--data.max_length 6: two segments need at least 7"),
        (NextSentenceData, {"short_share": 2.0}, "--data.short_share 2.0: give a share between 0 and 1"),
        (NextSentenceData, {"mask_rate": 0.0}, "--data.mask_rate 0.0"),
    ],
)
def test_wrong_arguments_are_refused(data_class: type[PairText], arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        data_class(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One thing. Another thing. More of it.", "--data.train: a single document"),
        ("One thing.\n\nAnother thing.\n\nMore of it.", "--data.train: none of 3 documents has two sentences"),
    ],
)
def test_a_corpus_without_pairs_is_refused(tmp_path: Path, corpus: Path, text: str, message: str):
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        prepared(NextSentence, tmp_path / "few.txt", tmp_path, validation=[str(corpus)], vocab_size=100)


def test_one_document_has_an_order(tmp_path: Path, corpus: Path):
    (tmp_path / "one.txt").write_text("One thing. Another thing. More of it. " * 30)
    _, data = prepared(SentenceOrder, tmp_path / "one.txt", tmp_path, validation=[str(corpus)], vocab_size=100)
    assert len(data.corpus.train) == 1
    assert {label for batch in data.train_dataloader() for label in batch["labels"].tolist()} == {0, 1}


@pytest.mark.parametrize(("task_class", "architecture"), [(NextSentence, "roberta"), (SentenceOrder, "bert")])
def test_a_network_without_the_head_is_refused(
    corpus: Path, tmp_path: Path, task_class: type[PairTask], architecture: str
):
    message = f"--model.architecture {architecture}: {task_class.__name__} needs a head that transformers has for "
    with pytest.raises(UserError, match=message):
        prepared(task_class, corpus, tmp_path, {"architecture": architecture}, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # nothing was tokenized


def test_a_tokenizer_without_cls_is_refused(corpus: Path, tmp_path: Path):
    _, data = prepared(NextSentence, corpus, tmp_path)
    data.hf_tokenizer.cls_token = None
    data.hf_tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="the tokenizer lacks cls_token or sep_token"):
        prepared(NextSentence, corpus, tmp_path, tokenizer=str(tmp_path / "tokenizer"))


@pytest.mark.parametrize("architecture", NextSentence.architectures)
def test_every_named_architecture_works(corpus: Path, tmp_path: Path, architecture: str):
    overrides = {"mobilebert": {**TINY, "embedding_size": 16, "intra_bottleneck_size": 32}}.get(architecture, TINY)
    task, data = prepared(NextSentence, corpus, tmp_path, {"architecture": architecture, "overrides": overrides})
    terms = task.terms(next(iter(data.train_dataloader())))
    assert all(torch.isfinite(term.sum) for term in terms.values())
