"""Planted faults break the very clause that is there for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from named_clauses import NAMED
from ptm_lightning.tasks.masked_lm import MaskedLM, MaskedLMData
from torch.nn import functional
from torch.utils.data import get_worker_info

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.module import TextData
from ptm_lightning.task import Task
from ptm_lightning.terms import Term, Terms
from ptm_lightning.testing import Alternative, check_task

# Doubles of MaskedLM, each with one fault in its batches. Their names keep them out of `list`.


@dataclass(frozen=True)
class _Faulty:
    """A collator with a fault."""

    right: MaskCollate
    fault: Callable[[MaskCollate, Pieces], Batch]

    def __call__(self, pieces: Pieces) -> Batch:
        return self.fault(self.right, pieces)


def double(fault: Callable[[MaskCollate, Pieces], Batch]) -> type[Task]:
    """MaskedLM on batches with a fault."""

    class _Data(MaskedLMData):
        def collator(self, store: Any, *, evaluate: bool) -> Callable[[Pieces], Batch]:
            return _Faulty(super().collator(store, evaluate=evaluate), fault)

    class _Double(MaskedLM):
        data_class: ClassVar[type[TextData]] = _Data

    return _Double


def shifted_target(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "targets": batch["targets"].roll(1)}


def special_token_masked(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    ids = batch["input_ids"].clone()
    targets = torch.cat([ids[0, :1], batch["targets"]])
    ids[0, 0] = right.mask_id
    index = torch.cat([torch.zeros(1, dtype=torch.long), batch["target_index"]])
    counts = batch["counts"] | {"mlm": len(index)}
    return {**batch, "input_ids": ids, "targets": targets, "target_index": index, "counts": counts}


def special_token_lost(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    batch["input_ids"][0, 0] = right.mask_id
    return batch


def noise_of_the_moment(right: MaskCollate, pieces: Pieces) -> Batch:
    return replace(right, seed=int(np.random.randint(2**31)))(pieces)


def noise_of_the_batch(right: MaskCollate, pieces: Pieces) -> Batch:
    return replace(right, seed=len(pieces.row))(pieces)


def noise_of_the_worker(right: MaskCollate, pieces: Pieces) -> Batch:
    worker = get_worker_info()
    return replace(right, seed=0 if worker is None else worker.id)(pieces)


def padding_counted(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "counts": batch["counts"] | {"tokens": batch["input_ids"].numel()}}


def padding_read(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    index = batch["target_index"].clone()
    index[-1] = batch["input_ids"].numel() - 1  # the last place of the shortest row
    return {**batch, "target_index": index}


def one_for_each_batch(right: MaskCollate, pieces: Pieces) -> Batch:
    batch = right(pieces)
    return {**batch, "counts": batch["counts"] | {"mlm": 1}}


class _Uncounted(MaskedLM):
    """A loss term under another name than its count."""

    def terms(self, batch: Batch) -> Terms:
        return {"other": super().terms(batch)["mlm"]}


class _Means(double(one_for_each_batch)):  # type: ignore[misc]
    """Means of micro-batches: their mean is not the mean over the step."""

    def terms(self, batch: Batch) -> Terms:
        logits = self.logits_at_targets(batch)
        return {"mlm": Term(functional.cross_entropy(logits, batch["targets"]), 1)}


class _Unlearnable(MaskedLM):
    """Other targets each time."""

    def terms(self, batch: Batch) -> Terms:
        targets = torch.randint(self.link.vocabulary, batch["targets"].shape)
        return super().terms({**batch, "targets": targets})


class _Remembers(MaskedLM):
    """A state that no checkpoint holds."""

    calls = 0

    def terms(self, batch: Batch) -> Terms:
        self.calls += self.training
        return {"mlm": replace(super().terms(batch)["mlm"], weight=1.0 + self.calls)}


class _Patched(MaskedLM):
    """A network that gives other logits than its weights say."""

    def configure_model(self) -> None:
        fresh = self.network is None
        super().configure_model()
        if fresh and self.network is not None:
            self.network.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: 2 * logits)


class _NeedsData(MaskedLM):
    """Not complete without its data module."""

    def tokenizer(self) -> Any:
        return self.trainer.datamodule.hf_tokenizer


class _DropsOne(MaskedLM):
    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        return super().predictions(batch)[1:]


class _TurnsRound(MaskedLM):
    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        return super().predictions(batch)[::-1]


class _Silent(MaskedLM):
    """Nothing is trained."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class _DeadArgument(MaskedLM):
    smoothing: float = 0.1
    """Is never read."""


class _DeadDataArgument(MaskedLM):
    class _Data(MaskedLMData):
        language: str | None = None
        """Is never read."""

    data_class: ClassVar[type[TextData]] = _Data


FAULTS = [
    (double(shifted_target), "targets_restore_the_text", "no text of the corpus"),
    (double(special_token_masked), "targets_restore_the_text", "a target is a special token"),
    (double(special_token_lost), "targets_restore_the_text", "special tokens around a text are changed"),
    (double(noise_of_the_moment), "noise_ignores_the_batch", "the same batches twice have different noise"),
    (double(noise_of_the_moment), "workers_give_equal_batches", "differs"),
    (double(noise_of_the_moment), "resume_is_equal", "other batches"),
    (double(noise_of_the_batch), "noise_ignores_the_batch", "rows differ in batches of 3 and of 7"),
    (double(noise_of_the_worker), "workers_give_equal_batches", "epoch: batch 1 differs"),
    (double(padding_counted), "batches_keep_the_schema", "tokens"),
    (_Uncounted, "batches_keep_the_schema", "the loss term other is not counted"),
    (double(padding_read), "batches_keep_the_schema", "the loss reads padding"),
    (_Means, "accumulation_is_equal", "three micro-batches give a gradient that is .*% off"),
    (_Unlearnable, "loss_falls", "it only comes to"),
    (_Remembers, "resume_is_equal", "losses"),
    (_Patched, "export_is_equal", "other logits"),
    (_NeedsData, "loads_without_data", "it raises"),
    (_DropsOne, "predictions_are_complete", "7 inputs give 3 predictions"),
    (_TurnsRound, "predictions_are_complete", "7 inputs .* give 7 predictions"),
    (_Silent, "fits", "the weights are as they were"),
    (_DeadArgument, "every_argument_counts", "task argument smoothing = 0.05 changes nothing and is not refused"),
    (_DeadDataArgument, "every_argument_counts", "no other value is known for the data argument language"),
]


@pytest.mark.parametrize(
    ("task", "clause", "message"),
    [pytest.param(*fault, id=f"{i}-{fault[1]}") for i, fault in enumerate(FAULTS)],
)
def test_planted_fault(task: type[Task], clause: str, message: str) -> None:
    with pytest.raises(AssertionError, match=f"{task.__name__} breaks the clause {clause}: .*{message}"):
        check_task(task, clauses=[NAMED[clause]])


def test_every_clause_has_its_fault() -> None:
    assert {clause for _, clause, _ in FAULTS} == set(NAMED)


def test_named_alternative_is_tried() -> None:
    message = "data argument language = 'de' changes nothing and is not refused"
    with pytest.raises(AssertionError, match=message):
        check_task(
            _DeadDataArgument,
            alternatives={"language": Alternative("de", given={"max_length": 24})},
            clauses=[NAMED["every_argument_counts"]],
        )


def test_alternative_without_an_argument() -> None:
    with pytest.raises(AssertionError, match=r"no argument: \[.langauge.\]"):
        check_task(MaskedLM, alternatives={"langauge": "de"}, clauses=[NAMED["every_argument_counts"]])


def test_threads_and_random_state_are_left_alone() -> None:
    before = torch.get_num_threads(), torch.get_rng_state().tolist()
    check_task(MaskedLM, clauses=[NAMED["fits"]])
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before
