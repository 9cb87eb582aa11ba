"""Replaced token detection, against a loop written from the paper and transformers' own losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ptm_lightning.tasks import ReplacedTokenData, ReplacedTokenDetection, replaced_token
from ptm_lightning.tasks.replaced_token import sample_tokens
from tiny_electra import prepared
from torch import Tensor

from ptm_lightning.data.batch import Batch
from ptm_lightning.terms import RunningSums

CHINESE = ["今天天气很好。我们去公园散步。", "他说明天会下雨。于是大家都留在家里😀。", "北京是中国的首都。有很多人。"]


def first_batch(data: ReplacedTokenData) -> Batch:
    return next(iter(data.train_dataloader()))


def corrupted(task: ReplacedTokenDetection, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the discriminator sees, and which of it is replaced: token by token, as the paper says it."""
    mask = (batch["document_ids"] > 0).long()
    with torch.no_grad():
        logits = task.generator(input_ids=batch["input_ids"], attention_mask=mask).logits
    ids, labels = batch["input_ids"].clone(), torch.zeros_like(mask)
    width = ids.shape[1]
    for place, right, chance in zip(
        batch["target_index"].tolist(), batch["targets"].tolist(), batch["chances"].tolist(), strict=True
    ):
        row, column = divmod(place, width)
        left = chance / 2**30
        shares = logits[row, column].double().softmax(0).tolist()
        token = 0
        while left >= shares[token]:
            left -= shares[token]
            token += 1
        ids[row, column] = token
        labels[row, column] = token != right
    return ids, labels


def reference_losses(task: ReplacedTokenDetection, batch: Batch) -> tuple[Tensor, Tensor]:
    """Transformers' own losses of the generator and of the discriminator."""
    mask = (batch["document_ids"] > 0).long()
    masked = torch.full_like(batch["input_ids"], -100).flatten()
    masked[batch["target_index"]] = batch["targets"]
    generator = task.generator(input_ids=batch["input_ids"], attention_mask=mask, labels=masked.view_as(mask))
    ids, labels = corrupted(task, batch)
    return generator.loss, task.network(input_ids=ids, attention_mask=mask, labels=labels).loss


def check_losses(task: ReplacedTokenDetection, batch: Batch) -> None:
    """Values and gradients."""
    gradients = []
    mlm, rtd = reference_losses(task, batch)
    for loss in (mlm + 50 * rtd, None):
        if loss is None:
            terms = task.terms(batch)
            ours = {name: terms[name].sum / terms[name].count for name in ("mlm", "rtd")}
            torch.testing.assert_close(ours["mlm"], mlm, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(ours["rtd"], rtd, rtol=1e-5, atol=1e-6)
            loss = sum(terms[name].weight * ours[name] for name in ours)
        task.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_losses_and_gradients_equal_transformers_own(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch = first_batch(data)
    assert batch["padded"]
    assert batch["counts"]["rtd"] == batch["counts"]["tokens"]
    check_losses(task, batch)


def shifted(logits: Tensor, chances: Tensor, temperature: float) -> Tensor:
    return sample_tokens(logits, chances, temperature).roll(1)


def greedy(logits: Tensor, chances: Tensor, temperature: float) -> Tensor:
    return logits.argmax(dim=-1)


def hot(logits: Tensor, chances: Tensor, temperature: float) -> Tensor:
    return sample_tokens(logits * 20, chances, temperature)


@pytest.mark.parametrize("fault", [shifted, greedy, hot])
def test_a_wrong_sample_would_be_seen(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any):
    task, data = prepared(corpus, tmp_path)
    monkeypatch.setattr(replaced_token, "sample_tokens", fault)
    with pytest.raises(AssertionError):
        check_losses(task, first_batch(data))


def test_the_discriminators_loss_reaches_the_generator_only_by_the_embeddings(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    task.terms(first_batch(data))["rtd"].sum.backward()
    shared = {id(parameter) for parameter in task.network.parameters()}
    own = [parameter for parameter in task.generator.parameters() if id(parameter) not in shared]
    assert len(own) > 20
    assert all(parameter.grad is None for parameter in own)
    assert task.network.electra.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_a_right_guess_is_an_original(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task, data = prepared(corpus, tmp_path)
    batch = first_batch(data)
    right = batch["targets"].clone()
    right[::2] += 1
    monkeypatch.setattr(replaced_token, "sample_tokens", lambda *_: right)
    _, ids, replaced, _ = task._run_both(batch)
    assert replaced.flatten()[batch["target_index"]].tolist() == [i % 2 == 0 for i in range(len(right))]
    assert replaced.sum() == (len(right) + 1) // 2
    assert ids.flatten()[batch["target_index"]].tolist() == right.tolist()


def test_special_tokens_are_judged_and_never_replaced(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch = first_batch(data)
    _, ids, replaced, _ = task._run_both(batch)
    framed = torch.zeros_like(replaced)
    framed[:, 0] = True
    ends = (batch["document_ids"] > 0).sum(dim=1) - 1
    framed[torch.arange(len(ends)), ends] = True
    assert not replaced[framed].any()
    assert set(ids[framed].tolist()) == {data.hf_tokenizer.cls_token_id, data.hf_tokenizer.sep_token_id}


def test_chances_are_uniform_among_the_targets(corpus: Path, tmp_path: Path):
    """Not so if they came from the numbers that choose the targets."""
    _, data = prepared(corpus, tmp_path)
    chances = torch.cat([batch["chances"] for batch in data.train_dataloader()])
    counts = torch.histc(chances.double(), bins=4, min=0, max=2**30)
    assert len(chances) > 1000
    torch.testing.assert_close(counts / len(chances), torch.full_like(counts, 0.25), atol=0.04, rtol=0)


def test_metrics_are_those_of_a_loop(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path, max_steps=2)
    sums, pairs, found = RunningSums(), [], []
    with torch.no_grad():
        for batch in data.val_dataloader():
            sums.add(task.terms(batch))
            guesses, _, replaced, logits = task._run_both(batch)
            real = batch["document_ids"] > 0
            pairs += list(zip(logits[real].tolist(), replaced[real].tolist(), strict=True))
            found += (guesses.argmax(-1) == batch["targets"]).tolist()
    means = task.finish_metrics(sums.means("val"), "val")
    hits = sum(logit > 0 and positive for logit, positive in pairs)
    positives, judged = sum(positive for _, positive in pairs), sum(logit > 0 for logit, _ in pairs)
    expected = {
        "replaced": positives / len(pairs),
        "accuracy": sum((logit > 0) == positive for logit, positive in pairs) / len(pairs),
        "recall": hits / positives,
        "f1": 2 * hits / (judged + positives),
        "f1_all_replaced": 2 * positives / (len(pairs) + positives),
        "generator_accuracy": sum(found) / len(found),
    }
    for name, value in expected.items():
        assert means[f"val/{name}"] == pytest.approx(value), name
    higher = torch.tensor([a for a, positive in pairs if positive])[:, None]
    lower = torch.tensor([b for b, positive in pairs if not positive])
    area = ((higher > lower).double() + 0.5 * (higher == lower)).mean()
    assert means["val/auroc"] == pytest.approx(float(area), abs=0.02)  # an untrained network's logits are close
    assert means["val/loss"] == pytest.approx(means["val/mlm_loss"] + 50 * means["val/rtd_loss"])


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_any_tokenizer_and_language(corpus: Path, tmp_path: Path, algorithm: str, language: str):
    if language == "chinese":
        corpus = tmp_path / "chinese.txt"
        corpus.write_text("\n\n".join(f"{CHINESE[i % 3]}{i}" for i in range(80)), encoding="utf-8")
    task, data = prepared(corpus, tmp_path, max_steps=1, tokenizer_algorithm=algorithm, vocab_size=400, layout="packed")
    batch = first_batch(data)
    assert batch["packed"]
    with torch.no_grad():
        terms = task.terms(batch)
    assert all(torch.isfinite(terms[name].sum) for name in ("mlm", "rtd"))
    text = CHINESE[1] if language == "chinese" else "an object of the class"
    (row,) = task.trainer.predict(task, ReplacedTokenData(text=[text]))[0]
    tokens = [each["token"] for each in row["tokens"]]
    assert tokens == data.hf_tokenizer.tokenize(text)
    assert all(0 < each["replaced"] < 1 for each in row["tokens"])


def test_packed_documents_do_not_see_each_other(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path, layout="packed")
    batch = next(batch for batch in data.train_dataloader() if batch["document_ids"].max() > 1)
    row = int((batch["document_ids"].max(dim=1).values > 1).nonzero()[0])
    with torch.no_grad():
        logits = task._run_both(batch)[-1]
        second = (batch["document_ids"][row] == 2).nonzero().flatten()
        batch["input_ids"][row, second[1]] = data.hf_tokenizer.convert_tokens_to_ids("a")
        after = task._run_both(batch)[-1]
    same = batch["document_ids"][row] != 2
    torch.testing.assert_close(logits[row][same], after[row][same], rtol=0, atol=1e-6)
    assert not torch.equal(logits[row][~same], after[row][~same])


def test_examples_show_what_was_replaced(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch = next(iter(data.val_dataloader()))
    _, ids, replaced, _ = task._run_both(batch)
    examples = task.examples(batch)
    assert len(examples) == len(ids)
    for example, row, changed in zip(examples, ids, replaced, strict=True):
        after = data.hf_tokenizer.convert_ids_to_tokens(row[changed].tolist())
        assert example["replaced"].count(" > ") == len(after)
        assert all(f" > {token}" in example["replaced"] for token in after)
        assert example["suspected"].count("%") >= max(1, int(changed.sum()))
