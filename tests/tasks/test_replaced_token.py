"""Replaced token detection, against a loop written from the paper and transformers' own losses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import ReplacedTokenData, ReplacedTokenDetection, replaced_token
from ptm_lightning.tasks.replaced_token import generator_config, sample_tokens
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
)

from ptm_lightning.data.batch import Batch
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.optim import parameter_groups
from ptm_lightning.origin import start_from
from ptm_lightning.terms import RunningSums

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
CHINESE = ["今天天气很好。我们去公园散步。", "他说明天会下雨。于是大家都留在家里😀。", "北京是中国的首都。有很多人。"]


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, max_steps: int = 0, **data: Any
) -> tuple[ReplacedTokenDetection, ReplacedTokenData]:
    arguments = {"vocab_size": 600, "max_length": 48, "batch_tokens": 600, "validation_share": 0.1}
    module = ReplacedTokenData(**({"train": [str(corpus)]} | arguments | data))
    model = ReplacedTokenDetection(**({"overrides": TINY} | (task or {})))
    trainer = Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model.eval(), module


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


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_embeddings_are_one_object_and_count_once(corpus: Path, tmp_path: Path, share: float):
    task, _ = prepared(corpus, tmp_path, {"generator_share": share, "ema": 0.5}, max_steps=2)
    shared = task.network.electra.embeddings
    assert task.generator.electra.embeddings is shared
    assert task.generator.generator_lm_head.weight is shared.word_embeddings.weight
    counted = [id(p) for group in parameter_groups(task, 0.01) for p in group["params"]]
    assert len(counted) == len(set(counted))
    both = {id(p) for network in (task.network, task.generator) for p in network.parameters()}
    assert set(counted) == both
    assert {name.rpartition(".")[0] for name, p in task.named_parameters() if p is shared.word_embeddings.weight} == {
        "network.electra.embeddings.word_embeddings"
    }
    state = task.state_dict()
    for name, _ in shared.named_parameters():
        pair = [state[f"{network}.electra.embeddings.{name}"] for network in ("network", "generator")]
        assert pair[0].data_ptr() == pair[1].data_ptr()
    ours, theirs = (n.electra.encoder.layer[0].output.dense.weight for n in (task.network, task.generator))
    assert ours.shape != theirs.shape or not torch.allclose(ours, theirs)


@pytest.mark.parametrize(
    ("hidden", "share", "expected"),
    [(768, 1 / 3, (256, 4, 1024)), (256, 0.25, (64, 1, 256)), (1024, 0.25, (256, 4, 1024)), (128, 0.25, (32, 1, 128))],
)
def test_the_generator_has_the_published_shape(hidden: int, share: float, expected: tuple[int, int, int]):
    big = ElectraConfig(hidden_size=hidden, num_attention_heads=2, embedding_size=128, num_hidden_layers=5)
    small = generator_config(big, share)
    assert (small.hidden_size, small.num_attention_heads, small.intermediate_size) == expected
    assert (small.embedding_size, small.num_hidden_layers, small.vocab_size) == (128, 5, big.vocab_size)
    assert big.hidden_size == hidden


def test_samples_follow_the_distribution():
    torch.manual_seed(0)
    logits, count = torch.randn(6) * 2, 100_000
    chances = (torch.arange(count) * (2**30 // count)).clamp(max=2**30 - 1)
    for temperature in (1.0, 0.5):
        drawn = sample_tokens(logits.expand(count, -1), chances, temperature)
        shares = torch.bincount(drawn, minlength=6) / count
        torch.testing.assert_close(shares, (logits / temperature).softmax(0), atol=1e-4, rtol=0)


def test_chances_are_uniform_among_the_targets(corpus: Path, tmp_path: Path):
    """Not so if they came from the numbers that choose the targets."""
    _, data = prepared(corpus, tmp_path)
    chances = torch.cat([batch["chances"] for batch in data.train_dataloader()])
    counts = torch.histc(chances.double(), bins=4, min=0, max=2**30)
    assert len(chances) > 1000
    torch.testing.assert_close(counts / len(chances), torch.full_like(counts, 0.25), atol=0.04, rtol=0)


def test_samples_are_in_range_and_possible():
    ends = torch.tensor([0, 2**30 - 1])
    possible = torch.full((2, 9), -torch.inf)
    possible[:, 3:6] = 0.0
    assert sample_tokens(possible, ends, 1.0).tolist() == [3, 5]
    assert sample_tokens(torch.zeros(2, 50_000), ends, 1.0).tolist() == [0, 49_999]
    assert sample_tokens(torch.full((2, 9), torch.nan), ends, 1.0).max() < 9


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


@pytest.fixture(scope="module")
def checkpoint(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        task, _ = prepared(corpus, folder, max_steps=2)
    task.trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_the_generator_is_exported_if_asked(checkpoint: Path, tmp_path: Path):
    task = ReplacedTokenDetection.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    ids = torch.arange(24).view(2, 12)
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    for _ in range(2):  # the second replaces the first
        export(checkpoint, folder, ReplacedTokenDetection, auxiliary=True)
    assert "generator/config.json" in json.loads((folder / "ptm_lightning.json").read_text())["files"]
    found = AutoModelForPreTraining.from_pretrained(folder).eval()
    small = AutoModelForMaskedLM.from_pretrained(folder / "generator").eval()
    assert isinstance(found, ElectraForPreTraining)
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, task.network(ids).logits)
        torch.testing.assert_close(small(ids).logits, task.generator(ids).logits)
    (folder / "generator" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files of yours \(generator/notes.txt\)"):
        export(checkpoint, folder, ReplacedTokenDetection)


def test_new_words_extend_the_generator_too(checkpoint: Path, corpus: Path, tmp_path: Path):
    words = tmp_path / "words.txt"
    words.write_text("photosynthesis\nchloroplast\n")
    task = ReplacedTokenDetection()
    start_from(task, checkpoint)
    assert task.generator is not None
    old = task.generator.get_output_embeddings().bias.detach().clone()
    module = ReplacedTokenData(
        train=[str(corpus)], new_words=str(words), max_length=48, batch_tokens=600, validation_share=0.1
    )
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, module)
    network, head, size = task.network, task.generator.get_output_embeddings(), len(old) + 2
    assert network is not None
    assert head.weight is task.generator.get_input_embeddings().weight is network.get_input_embeddings().weight
    assert (head.bias.shape, head.weight.shape[0]) == ((size,), size)
    assert task.generator.config.vocab_size == network.config.vocab_size == size
    new = task.link.new_tokens  # type: ignore[union-attr]
    assert len(new) == 2
    for nth, pieces in enumerate(new.values()):  # one step away from where they began
        assert head.bias[len(old) + nth].item() == pytest.approx(old[list(pieces)].mean().item(), abs=0.01)


def test_another_shape_of_generator_does_not_take_the_weights(checkpoint: Path):
    with pytest.raises(UserError, match="its weights don't fit ReplacedTokenDetection"):
        start_from(ReplacedTokenDetection(generator_share=0.5), checkpoint)


def test_a_backbone_is_the_discriminator(
    checkpoint: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    task, _ = prepared(corpus, tmp_path, {"backbone": str(folder), "overrides": None})
    assert "has no generator; it starts from scratch" in caplog.text
    found = ElectraForPreTraining.from_pretrained(folder)
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(task.network.state_dict()[name], weight)
    assert task.generator.electra.embeddings is task.network.electra.embeddings


def test_a_backbone_of_another_kind_is_refused(checkpoint: Path, corpus: Path, tmp_path: Path):
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    BertForPreTraining(BertConfig(vocab_size=600, **TINY)).save_pretrained(folder)
    with pytest.raises(UserError, match="is a bert; replaced token detection needs an electra"):
        prepared(corpus, tmp_path, {"backbone": str(folder), "overrides": None}, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # nothing was tokenized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "bert"}, "--model.architecture bert: replaced token detection needs electra"),
        ({"generator_share": 0.0}, "--model.generator_share 0.0: give a share up to 1"),
        ({"generator_share": 1.5}, "--model.generator_share 1.5: give a share up to 1"),
        ({"temperature": 0.0}, "--model.temperature 0.0: give a positive number"),
        ({"discriminator_weight": -1.0}, "--model.discriminator_weight -1.0: give a positive number"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        ReplacedTokenDetection(**arguments)


def test_a_generator_whose_heads_do_not_fit_is_refused():
    with pytest.raises(UserError, match=r"a generator 129 wide can't have 2 attention heads"):
        generator_config(ElectraConfig(hidden_size=256), 129 / 256)
    with pytest.raises(UserError, match="a generator 0 wide"):
        generator_config(ElectraConfig(hidden_size=256), 0.001)
