"""Masked language modelling, against transformers' own loss and real word boundaries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answering import trainer_for
from ptm_lightning.tasks import MaskedLM, MaskedLMData

from ptm_lightning.data import masked
from ptm_lightning.data.noise import mask
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, **data: Any
) -> tuple[MaskedLM, MaskedLMData]:
    arguments = {
        "train": [str(corpus)],
        "vocab_size": 600,
        "max_length": 48,
        "batch_tokens": 600,
        "validation_share": 0.1,
    }
    module = MaskedLMData(**(arguments | data))
    model = MaskedLM(**({"overrides": TINY} | (task or {})))
    trainer_for(tmp_path, 0).fit(model, module)
    return model, module


def first_batch(data: MaskedLMData) -> Any:
    return next(iter(data.train_dataloader()))


def labels_of(batch: Any) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    return labels.view_as(batch["input_ids"])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert", "electra"])
def test_loss_and_gradient_equal_transformers(corpus: Path, tmp_path: Path, architecture: str):
    algorithm = "bpe" if architecture == "roberta" else "wordpiece"
    task, data = prepared(corpus, tmp_path, {"architecture": architecture}, tokenizer_algorithm=algorithm)
    batch = first_batch(data)
    task.network.eval()
    term = task.eval().terms(batch)["mlm"]
    (term.sum / term.count).backward()
    ours = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    task.zero_grad()
    output = task.network(
        input_ids=batch["input_ids"], attention_mask=(batch["document_ids"] > 0).long(), labels=labels_of(batch)
    )
    output.loss.backward()
    torch.testing.assert_close(term.sum / term.count, output.loss, rtol=1e-5, atol=1e-6)
    for name, parameter in task.network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_packed_documents_do_not_see_each_other(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path, layout="packed")
    batch = next(batch for batch in data.train_dataloader() if batch["document_ids"].max() > 1)
    assert batch["packed"]
    row = int((batch["document_ids"].max(dim=1).values > 1).nonzero()[0])
    task.eval()
    with torch.no_grad():
        before = task.network(**task.inputs(batch)).logits[row]
        second = (batch["document_ids"][row] == 2).nonzero().flatten()
        batch["input_ids"][row, second[1]] = data.hf_tokenizer.convert_tokens_to_ids("a")
        after = task.network(**task.inputs(batch)).logits[row]
    same = batch["document_ids"][row] != 2
    torch.testing.assert_close(before[same], after[same], rtol=0, atol=1e-6)
    assert not torch.equal(before[~same], after[~same])


@pytest.mark.parametrize("layout", ["rows", "packed", "blocks"])
def test_targets_are_the_text_and_special_tokens_never_are(corpus: Path, tmp_path: Path, layout: str):
    _, data = prepared(corpus, tmp_path, layout=layout)
    special = set(data.hf_tokenizer.all_special_ids)
    texts = data.corpus.train.tokens
    for batch in data.train_dataloader():
        restored = batch["input_ids"].flatten().clone()
        restored[batch["target_index"]] = batch["targets"]
        assert not special & set(batch["targets"].tolist())
        content = ~torch.isin(restored, torch.tensor(sorted(special)))
        assert batch["counts"]["mlm"] == len(batch["targets"])
        assert int(content.sum()) <= len(texts)
        assert batch["counts"]["tokens"] == int((batch["document_ids"] > 0).sum())
        replaced = batch["input_ids"].flatten()[batch["target_index"]]
        assert set(replaced.tolist()) & special <= {data.hf_tokenizer.mask_token_id}


def test_an_epoch_rebuilds_the_text(corpus: Path, tmp_path: Path):
    """Every token of the store comes once, with its target restored."""
    _, data = prepared(corpus, tmp_path, layout="rows")
    special = torch.tensor(sorted(data.hf_tokenizer.all_special_ids))
    counts = np.zeros(len(data.hf_tokenizer), dtype=np.int64)
    for batch in data.train_dataloader():
        restored = batch["input_ids"].flatten()
        restored[batch["target_index"]] = batch["targets"]
        counts += np.bincount(restored[~torch.isin(restored, special)].numpy(), minlength=len(counts))
    assert (counts == data.corpus.train.counts).all()


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_whole_words_are_masked_whole(corpus: Path, tmp_path: Path, algorithm: str):
    _, data = prepared(
        corpus, tmp_path, masking="word", tokenizer_algorithm=algorithm, mask_share=1.0, random_share=0.0
    )
    batch = first_batch(data)
    ids = batch["input_ids"].clone().flatten()
    ids[batch["target_index"]] = batch["targets"]
    target = torch.zeros_like(ids, dtype=torch.bool)
    target[batch["target_index"]] = True
    width = batch["input_ids"].shape[1]
    words = WordTable.of(data.hf_tokenizer)
    torn = 0
    for row in range(batch["input_ids"].shape[0]):
        here = slice(row * width, (row + 1) * width)
        word = np.cumsum(words.starts(ids[here].numpy()))
        for number in set(word[target[here].numpy()].tolist()):
            torn += not target[here].numpy()[word == number].all()
    assert torn == 0


def test_the_same_document_has_the_same_noise_in_any_batch(corpus: Path, tmp_path: Path):
    def noised(batch_tokens: int, num_workers: int = 0) -> list[tuple[list[int], list[int]]]:
        _, data = prepared(corpus, tmp_path, batch_tokens=batch_tokens, num_workers=num_workers)
        seen = []
        for batch in data.train_dataloader():
            restored = batch["input_ids"].flatten().clone()
            restored[batch["target_index"]] = batch["targets"]
            for text, row, document in zip(
                restored.view_as(batch["input_ids"]).tolist(),
                batch["input_ids"].tolist(),
                batch["document_ids"],
                strict=True,
            ):
                real = int((document > 0).sum())
                seen.append((text[:real], row[:real]))
        return sorted(seen)

    small = noised(200)
    assert small == noised(2000) == noised(600, num_workers=2)


def test_the_loss_on_new_sentences_counts_fresh_targets(corpus: Path, tmp_path: Path):
    _, data = prepared(corpus, tmp_path)
    batch = next(iter(data.val_dataloader()))
    assert batch["fresh"].dtype == torch.bool
    assert len(batch["fresh"]) == len(batch["targets"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_rate": 1.5}, "--data.mask_rate 1.5: give a share between 0 and 1"),
        ({"mask_share": 0.9, "random_share": 0.2}, "give shares that sum to at most 1"),
        ({"batch_tokens": None}, "--data.batch_tokens or --data.batch_size: give one of them"),
        ({"weights": [1.0, 2.0]}, "--data.weights: 2 for 1 sources of --data.train"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        MaskedLMData(**arguments)


def test_predictions_fill_masks_in_order(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    texts = [f"the [MASK] of {word} is [MASK]." for word in ("a", "the", "an object")]
    trainer = task.trainer
    results = trainer.predict(task, MaskedLMData(text=texts, batch_size=2))
    rows = [row for batch in results for row in batch]
    assert [row["text"] for row in rows] == texts
    assert all(len(row["guesses"]) == 2 and len(row["guesses"][0]) == 5 for row in rows)
    assert all("[MASK]" not in row["prediction"] for row in rows)


def test_predicting_without_a_mask_is_refused(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    with pytest.raises(UserError, match=r"text 0 has no \[MASK\] to fill: 'no mask'"):
        task.trainer.predict(task, MaskedLMData(text=["no mask"]))


def test_a_shifted_target_would_be_seen(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parity test above is worth something: with targets shifted by one place it fails."""

    def shifted(*arguments: Any, **keywords: Any) -> Any:
        found = mask(*arguments, **keywords)
        return found._replace(chosen=np.roll(found.chosen, 1))

    monkeypatch.setattr(masked, "mask", shifted)
    with pytest.raises(AssertionError):
        test_an_epoch_rebuilds_the_text(corpus, tmp_path)
