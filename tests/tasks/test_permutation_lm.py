"""Permutation language modelling: transformers' own loss, and no target that sees what it may not see."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import PermutationLM, PermutationLMData, permutation_lm
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.predict import Text
from ptm_lightning.errors import UserError
from ptm_lightning.models.rows import only_rows
from ptm_lightning.models.two_streams import permutation_mask, target_slots

TINY = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
CHINESE = "\n\n".join(f"第{i}章。自然语言处理是人工智能的一个方向😀研究文本{i * i}。" for i in range(60))


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, precision: Any = "32-true", **data: Any
) -> tuple[PermutationLM, PermutationLMData]:
    """A task that has met its data and takes steps if asked to."""
    task = task or {}
    steps = task.pop("steps", 0)
    arguments = {
        "train": [str(corpus)],
        "vocab_size": 600,
        "max_length": 47,
        "batch_tokens": 600,
        "validation_share": 0.1,
    }
    module = PermutationLMData(**(arguments | data))
    model = PermutationLM(**({"overrides": TINY} | task))
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path, precision=precision,
    )  # fmt: skip
    trainer.fit(model, module)
    return model, module


def first_batch(data: PermutationLMData) -> Any:
    return next(iter(data.train_dataloader()))


@pytest.fixture(scope="module")
def ready(corpus: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[PermutationLM, Batch]:
    """A task, to be read only, and a batch of its data with padding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        task, data = prepared(corpus, tmp_path_factory.mktemp("ready"))
        batches = [batch for batch in data.train_dataloader() if batch["padded"] and len(batch["input_ids"]) > 5]
    return task.eval(), batches[0]


def dense_inputs(batch: Batch) -> dict[str, Tensor]:
    """As XLNetLMHeadModel takes them: each place in a slot of its own, and who sees whom by loops over the order."""
    rows, width = batch["input_ids"].shape
    unseen = torch.zeros(rows, width, width)
    for row, order in enumerate(batch["order"].tolist()):
        for i in range(width):
            for j in range(width):
                unseen[row, i, j] = order[j] > 0 and not order[j] < order[i]
    labels = torch.full((rows * width,), -100)
    labels[batch["target_index"]] = batch["targets"]
    return {
        "input_ids": batch["input_ids"],
        "token_type_ids": batch["token_type_ids"],
        "attention_mask": (batch["document_ids"] > 0).long(),
        "perm_mask": unseen,
        "target_mapping": torch.eye(width).expand(rows, width, width),
        "labels": labels.view(rows, width),
    }


@pytest.mark.parametrize("algorithm", ["xlnet", "wordpiece", "bpe", "unigram"])
def test_loss_and_gradient_equal_transformers(corpus: Path, tmp_path: Path, algorithm: str):
    task, data = prepared(corpus, tmp_path, tokenizer_algorithm=algorithm)
    batch = first_batch(data)
    term = task.eval().terms(batch)["plm"]
    (term.sum / term.count).backward()
    ours = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    task.zero_grad()
    output = task.network(**dense_inputs(batch))
    output.loss.backward()
    torch.testing.assert_close(term.sum / term.count, output.loss, rtol=1e-5, atol=1e-6)
    assert set(ours) == {name for name, _ in task.network.named_parameters()}
    for name, parameter in task.network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


def seen_by_gradient(task: PermutationLM, batch: Batch, number: int) -> Tensor:
    """(R, T) whether the loss of the batch's nth target depends on the embedding of each place."""
    embeddings = task.network.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = task.inputs(batch) | {"inputs_embeds": embeddings}
    del inputs["input_ids"]
    with only_rows(
        task.network, target_slots(batch["target_index"], batch["input_ids"].shape[1], batch["most_targets"])
    ):
        logits = task.network(**inputs).logits[0]
    functional.cross_entropy(logits[number], batch["targets"][number]).backward()
    return embeddings.grad.abs().sum(dim=-1) > 0


def assert_sees_what_it_may(task: PermutationLM, batch: Batch) -> None:
    """By the paper: a target sees its own row's text that isn't predicted, and the targets before it; all of these."""
    for number in range(0, len(batch["targets"]), 5):
        row, place = divmod(int(batch["target_index"][number]), batch["input_ids"].shape[1])
        order = batch["order"][row]
        may = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        may[row] = (order < order[place]) & (batch["document_ids"][row] > 0)
        seen = seen_by_gradient(task, batch, number)
        assert not (seen & ~may).any(), "leak"
        assert (seen | ~may).all(), "blind"


def test_no_gradient_from_a_target_to_itself_or_to_later_ones(ready: tuple[PermutationLM, Batch]):
    assert_sees_what_it_may(*ready)


MUTANTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "targets see themselves": ("leak", lambda order: order[:, :, None] < order[:, None, :]),
    "reversed order": ("leak", lambda order: permutation_mask(torch.where(order > 0, 1000 - order, 0))),
    "no order": ("leak", lambda order: torch.zeros_like(order[:, :, None] > order[:, None, :])),
    "shifted by one": ("leak", lambda order: permutation_mask(order.roll(1, dims=1))),
    "transposed": ("leak", lambda order: permutation_mask(order).transpose(1, 2)),
    "text sees targets, as special tokens would": (
        "leak",
        lambda order: permutation_mask(order) & (order[:, :, None] > 0),
    ),
    "targets see no others": (
        "blind",
        lambda order: permutation_mask(order) | ((order[:, :, None] > 0) & (order[:, None, :] > 0)),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_mask_would_be_seen(ready: tuple[PermutationLM, Batch], mutant: str, monkeypatch: pytest.MonkeyPatch):
    fault, mask = MUTANTS[mutant]
    monkeypatch.setattr(permutation_lm, "permutation_mask", mask)
    with pytest.raises(AssertionError, match=fault):
        assert_sees_what_it_may(*ready)


def test_no_unseen_token_changes_a_logit(ready: tuple[PermutationLM, Batch]):
    task, batch = ready
    with torch.inference_mode():
        before = task.logits_at_targets(batch)
        for number in range(0, len(batch["targets"]), 3):
            hidden = task.hidden_from(batch, number)
            other = (batch["input_ids"] + 17) % 500
            changed: Batch = {**batch, "input_ids": torch.where(hidden, other, batch["input_ids"])}
            torch.testing.assert_close(task.logits_at_targets(changed)[number], before[number], rtol=0, atol=1e-6)
            changed = {**batch, "input_ids": torch.where(hidden, batch["input_ids"], other)}
            assert not torch.allclose(task.logits_at_targets(changed)[number], before[number], atol=1e-4)


def test_slots_of_another_target_would_be_seen(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(permutation_lm, "target_slots", lambda *arguments: target_slots(*arguments).roll(1))
    with pytest.raises(AssertionError):
        test_loss_and_gradient_equal_transformers(corpus, tmp_path, "xlnet")


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_no_logit(ready: tuple[PermutationLM, Batch], side: str):
    task, batch = ready
    padding = (0, 5) if side == "right" else (5, 0)
    width = batch["input_ids"].shape[1]
    row, place = batch["target_index"] // width, batch["target_index"] % width
    wider: Batch = {
        **batch,
        **{
            name: functional.pad(batch[name], padding, value=0)  # type: ignore[literal-required]
            for name in ("input_ids", "document_ids", "order", "token_type_ids", "position_ids")
        },
        "target_index": row * (width + 5) + place + padding[0],
        "padded": True,
        "most_targets": batch["most_targets"] + 1,
    }
    with torch.inference_mode():
        torch.testing.assert_close(task.logits_at_targets(wider), task.logits_at_targets(batch), rtol=0, atol=2e-6)


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("algorithm", ["xlnet", "wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_batches_hold_the_text_unchanged(corpus: Path, tmp_path: Path, layout: str, algorithm: str, language: str):
    """Every token comes once an epoch; special tokens are never targets; rows of any length; one target in six."""
    if language == "chinese":
        corpus = tmp_path / "chinese.txt"
        corpus.write_text(CHINESE, encoding="utf-8")
    _, data = prepared(corpus, tmp_path, layout=layout, tokenizer_algorithm=algorithm)
    special = set(data.hf_tokenizer.all_special_ids)
    counts = np.zeros(len(data.hf_tokenizer), dtype=np.int64)
    targets, lengths = 0, set()
    for batch in data.train_dataloader():
        ids, order = batch["input_ids"], batch["order"]
        assert torch.equal(ids.flatten()[batch["target_index"]], batch["targets"])
        assert torch.equal(torch.nonzero(order.flatten()).squeeze(1), batch["target_index"])
        assert not special & set(batch["targets"].tolist())
        assert batch["most_targets"] == int(order.max())
        for row, real in zip(order, batch["document_ids"] > 0, strict=True):
            assert sorted(row[row > 0].tolist()) == list(range(1, int((row > 0).sum()) + 1))
            assert int((row > 0).sum()) >= 1
            lengths.add(int(real.sum()) % 2)
        targets += len(batch["targets"])
        counts += np.bincount(ids.flatten().numpy(), minlength=len(counts))
    ordinary = np.setdiff1d(np.arange(len(counts)), sorted(special))
    expected = np.bincount(data.corpus.train.tokens, minlength=len(counts))
    np.testing.assert_array_equal(counts[ordinary], expected[ordinary])
    assert targets / expected.sum() == pytest.approx(1 / 6, abs=0.03)
    assert 1 in lengths  # odd ones too


def test_the_frame_is_that_of_the_exported_tokenizer(corpus: Path, tmp_path: Path):
    """XLNet's: the text, <sep>, and <cls> in a segment of its own; padding in front."""
    _, data = prepared(corpus, tmp_path)
    known = data.hf_tokenizer
    batch = first_batch(data)
    for ids, types, real in zip(batch["input_ids"], batch["token_type_ids"], batch["document_ids"] > 0, strict=True):
        assert known.convert_ids_to_tokens(ids[real][-2:].tolist()) == ["<sep>", "<cls>"]
        assert types[real].tolist() == [0] * (int(real.sum()) - 1) + [2]
    coded = known(["a text", "text"], padding=True)
    assert known.convert_ids_to_tokens(coded["input_ids"][1])[-2:] == ["<sep>", "<cls>"]
    assert coded["token_type_ids"][1][-3:] == [0, 0, 2]
    assert coded["attention_mask"][1][0] == 0


def test_in_blocks_cls_opens_a_row(corpus: Path, tmp_path: Path):
    _, data = prepared(corpus, tmp_path, layout="blocks")
    for batch in data.train_dataloader():
        assert (batch["input_ids"][:, 0] == data.hf_tokenizer.cls_token_id).all()
        assert (batch["token_type_ids"][:, 0] == 2).all()
        assert (batch["token_type_ids"][:, 1:] == 0).all()
        assert batch["input_ids"].shape[1] <= 47


def test_predictions_fill_masks_and_see_no_mask(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    texts = ["the <mask> of a is <mask>.", "no, <mask>"]
    rows = [row for rows in task.trainer.predict(task, PermutationLMData(text=texts, batch_size=2)) for row in rows]
    assert [row["text"] for row in rows] == texts
    assert [len(row["guesses"]) for row in rows] == [2, 1]
    assert all("<mask>" not in row["prediction"] for row in rows)


def test_a_guess_does_not_depend_on_the_other_masks(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    task.eval()
    batch = data.predict_batch([Text("0", "the <mask> of a is <mask>.")])
    with torch.inference_mode():
        before = task.logits_at_targets(batch)
        batch["input_ids"].view(-1)[batch["target_index"][1]] = 99
        after = task.logits_at_targets(batch)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_bf16_mixed_trains(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path, {"steps": 3}, precision="bf16-mixed")
    assert all(torch.isfinite(p).all() for p in task.parameters())
    assert float(task.trainer.callback_metrics.get("val/loss", 0.0)) < 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layout": "packed"},
            "--data.layout packed: XLNet can't keep documents in one row apart; take rows or blocks",
        ),
        ({"one_in": 1}, "--data.one_in 1: give at least 2"),
        ({"longest_span": 0}, "--data.longest_span 0: give at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        PermutationLMData(**arguments)


def test_a_network_with_one_stream_is_refused(corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--model.architecture gpt2: can't predict in any order; give an xlnet"):
        prepared(corpus, tmp_path, {"architecture": "gpt2", "overrides": None}, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # nothing was tokenized


def test_a_tokenizer_without_a_frame_is_refused(corpus: Path, tmp_path: Path):
    from tokenizers.processors import TemplateProcessing

    _, data = prepared(corpus, tmp_path)
    tokenizer = data.hf_tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    tokenizer.save_pretrained(tmp_path / "frameless")
    with pytest.raises(UserError, match=r"--data.tokenizer: it frames no text with special tokens"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "frameless"))


def test_predicting_without_a_mask_is_refused(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    with pytest.raises(UserError, match=r"text 0 has no <mask> to fill: 'no mask'"):
        task.trainer.predict(task, PermutationLMData(text=["no mask"]))


def test_findings_name_what_is_wrong(corpus: Path, tmp_path: Path):
    _, data = prepared(corpus, tmp_path)
    pieces = data.plan.chunk(0, 0).microbatch(0)
    batch = data.collator(data.corpus.train, evaluate=False)(pieces)
    assert not any(finding.wrong for finding in data.findings([(pieces, batch)]))
    order = batch["order"].clone()
    order[0, (order[0] == 1).nonzero()] = 2
    ids = batch["input_ids"].clone()
    ids[0, 0] += 1
    sep = int((batch["input_ids"].flatten() == data.hf_tokenizer.sep_token_id).nonzero()[0])
    index = torch.cat([batch["target_index"], torch.tensor([sep])])
    targets = torch.cat([batch["targets"], torch.tensor([data.hf_tokenizer.sep_token_id])])
    broken: Batch = {**batch, "order": order, "input_ids": ids, "target_index": index, "targets": targets}
    wrong = [finding.wrong for finding in data.findings([(pieces, broken)])]
    assert wrong[:2] == ["", ""]
    assert " in " in wrong[2]
    assert wrong[3].startswith("'<sep>' in ")
    assert wrong[5].startswith("steps [2, 2")
