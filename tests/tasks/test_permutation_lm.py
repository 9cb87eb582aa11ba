"""Permutation language modelling: transformers' own loss, and no target that sees what it may not see."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ptm_lightning.tasks import PermutationLM, permutation_lm
from tiny_xlnet import first_batch, prepared
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.batch import Batch
from ptm_lightning.models.rows import only_rows
from ptm_lightning.models.two_streams import permutation_mask, target_slots


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
