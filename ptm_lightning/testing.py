"""check_task: the contract that every task is held to, built-in or foreign."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ptm_lightning.data.batch import Batch, real_places
from ptm_lightning.data.example_data import ExampleData
from ptm_lightning.export import export
from ptm_lightning.task import Task
from ptm_lightning.terms import RunningSums, Term, Terms, step_loss
from ptm_lightning.testing_arguments import Alternative, every_argument_counts
from ptm_lightning.testing_case import STEPS, Case, digest, quiet, rows_of, switch_dropout_off, tiny
from ptm_lightning.testing_texts import write_texts

__all__ = ["CLAUSES", "Alternative", "Case", "Clause", "check_task", "targets_restore_the_text"]

Clause = Callable[[Case], None]

OVERFITTING_STEPS = 60
ROUNDING = 1e-4
"""Relative difference of two gradients that are equal but for the order of summing."""


def check_task(
    task_class: type[Task],
    *,
    data: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    alternatives: Mapping[str, Any] | None = None,
    clauses: Sequence[Clause] | None = None,
) -> None:
    """Holds a task and its data module to the contract, on the CPU with one thread, within a minute.

    It trains networks of one layer of 32 on some sixty short documents in a temporary folder; nothing is downloaded.

    Args:
        task_class: The task; its data module is `task_class.data_class`.
        data: Arguments of the data module, such as sources with the columns that it needs. The rest is ours.
        arguments: Arguments of the task. An architecture whose dimensions have names of its own needs the `overrides`
            that make it small.
        alternatives: Other values of arguments, by name, for the clause that every argument counts: a value, or an
            `Alternative` if it only means something together with others. Numbers, truth values and choices need none.
        clauses: Default: `CLAUSES`.

    Raises:
        AssertionError: It says which clause does not hold, and what was seen.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory(prefix="check_task_", ignore_cleanup_errors=True) as folder:
            architecture = (arguments or {}).get("architecture", task_class.architecture)
            texts = write_texts(Path(folder) / "texts", labelled=issubclass(task_class.data_class, ExampleData))
            case = Case(
                task_class,
                Path(folder),
                {"overrides": tiny(architecture), **(arguments or {})},
                {**texts, **(data or {})},
                alternatives or {},
            )
            for clause in CLAUSES if clauses is None else clauses:
                _hold(clause, case)
    finally:
        torch.set_num_threads(threads)


def _hold(clause: Clause, case: Case) -> None:
    place = f"{case.task_class.__name__} breaks the clause {clause.__name__}"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clause(case)
    except AssertionError as error:
        raise AssertionError(f"{place}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{place}: it raises {type(error).__name__}: {error}") from error


def fits(case: Case) -> None:
    """A few steps change the weights, and losses and validation metrics are numbers."""
    seen, _ = case.trained
    assert len(seen.losses) == STEPS, f"{len(seen.losses)} steps were trained, not {STEPS}"
    assert all(map(math.isfinite, seen.losses)), f"the losses are {seen.losses}"
    assert digest(seen.initial) != digest(seen.final), "the weights are as they were"
    assert "val/loss" in seen.metrics, f"validation gives no val/loss, but {sorted(seen.metrics)}"
    assert all(map(math.isfinite, seen.metrics.values())), f"the metrics are {seen.metrics}"


def batches_keep_the_schema(case: Case) -> None:
    """Batches count their terms and what isn't padding (with a decoder, the text); the loss reads no padding."""
    data = case.data()
    task = case.ready(data)
    batches = case.epoch(data)
    if "decoder_input_ids" in batches[0]:
        planned = sum(islice(chain.from_iterable(data.plan.tokens_by_step()), data.plan.steps(0)))
        counted = sum(batch["counts"]["tokens"] for batch in batches)
        assert counted == planned, f"an epoch of {planned} tokens by the plan has {counted} by its batches"
    for batch, trains in ((batches[0], True), (case.validation(data)[0], False)):
        terms = _loss_terms(task, batch, trains)
        counts = batch.get("counts", {})
        assert terms, "the task has no loss term"
        for name, term in terms.items():
            assert name in counts, f'the loss term {name} is not counted: batch["counts"] is {counts}'
            seen_count = int(term.count)
            assert counts[name] == seen_count, f'{name} counts {seen_count}, and batch["counts"] says {counts[name]}'
        real = batch["document_ids"] > 0
        if "decoder_input_ids" not in batch:
            assert counts.get("tokens") == int(real.sum()), f'{int(real.sum())} tokens, and batch["counts"] is {counts}'
        assert batch["padded"] == bool((~real).any()), f"padded is {batch['padded']}, and {int((~real).sum())} are"
        assert batch["input_ids"].shape == real.shape, "document_ids and input_ids differ in shape"
        if "target_index" in batch:
            assert real_places(batch).flatten()[batch["target_index"]].all(), "the loss reads padding"
        other = _loss_terms(task, batch, not trains)
        for name, term in terms.items():
            torch.testing.assert_close(term.sum, other[name].sum, msg=f"{name} differs between training and evaluation")


def loss_falls(case: Case) -> None:
    """On one batch, seen again and again, the loss falls by half."""
    data = case.data()
    task = case.ready(data).train()
    batch = case.epoch(data)[0]
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    losses = []
    for _ in range(OVERFITTING_STEPS):
        loss = step_loss(task.terms(batch), batch["step_counts"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] - losses[-1] > abs(losses[0]) / 2, (
        f"from {losses[0]:.3f} it only comes to {losses[-1]:.3f} in {OVERFITTING_STEPS} steps"
    )


def workers_give_equal_batches(case: Case) -> None:
    """0 and 2 worker processes give the same batches."""
    for batches in (case.epoch, case.validation):
        own, theirs = ([digest(batch) for batch in batches(case.data(num_workers=n))] for n in (0, 2))
        assert own == theirs, f"{batches.__name__}: {_first_difference(own, theirs)}"


def noise_ignores_the_batch(case: Case) -> None:
    """A document gives the same noised row in batches of any size, and at each validation."""
    for batches in (case.epoch, case.validation):
        rows = [Counter(rows_of(batches(case.data(batch_tokens=None, batch_size=size)))) for size in (3, 7, 7)]
        assert rows[1] == rows[2], f"{batches.__name__}: the same batches twice have different noise"
        changed = (rows[0] - rows[1]).total()
        assert not changed, f"{batches.__name__}: {changed} of {rows[0].total()} rows differ in batches of 3 and of 7"


def accumulation_is_equal(case: Case) -> None:
    """One batch of all rows gives the gradient of three unequal micro-batches."""
    data = case.data(batch_tokens=None, batch_size=10**6)
    rows = len(case.epoch(data)[0]["input_ids"])
    gradients = []
    for size, accumulate in ((10**6, 1), (rows // 3 + 1, 3)):
        data = case.data(batch_tokens=None, batch_size=size)
        settings: dict[str, Any] = {"accumulate_grad_batches": accumulate, "max_steps": 1, "limit_val_batches": 0}
        seen = case.fit(case.task(), data, freeze_dropout=True, **settings)
        assert len(seen.batches) == accumulate, f"an epoch of {rows} rows gave {len(seen.batches)} batches of {size}"
        gradients.append(torch.cat([gradient.flatten() for gradient in seen.gradients[0].values()]))
    whole, parts = gradients
    off = float((whole - parts).norm() / whole.norm())
    assert off < ROUNDING, f"three micro-batches give a gradient that is {off:.1%} off"


def resume_is_equal(case: Case) -> None:
    """A run that goes on from a checkpoint has the losses and the weights of one that was never stopped, bit by bit."""
    for accumulate in (1, 2):
        settings: dict[str, Any] = {
            "accumulate_grad_batches": accumulate,
            "max_steps": len(case.epoch(case.data(), accumulate)) // accumulate + 2,
        }
        folder = case.folder / f"resume_{accumulate}"
        saver = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        whole = case.fit(case.task(), case.data(), saver, **settings)
        steps = len(whole.losses)
        for step in sorted({1, steps // 2, steps - 2, steps - 1}):
            rest = case.fit(case.task(), case.data(), checkpoint=folder / f"step={step}.ckpt", **settings)
            place = f"resumed at step {step} of {steps}, {accumulate} micro-batches a step"
            assert digest(rest.batches) == digest(whole.batches[step * accumulate :]), f"{place}: other batches"
            assert rest.losses == whole.losses[step:], f"{place}: losses {rest.losses}, not {whole.losses[step:]}"
            assert rest.rates == whole.rates[step:], f"{place}: learning rates {rest.rates}, not {whole.rates[step:]}"
            assert digest(rest.final) == digest(whole.final), f"{place}: other weights at the end"


def loads_without_data(case: Case) -> None:
    """A checkpoint alone gives the task back, with its tokenizer, when neither texts nor cache are there."""
    seen, _ = case.trained
    sums = RunningSums()
    with case.without_data():
        task = case.loaded()
        assert digest(task.state_dict()) == digest(seen.final), "the weights differ from those at the end of training"
        assert task.tokenizer() is not None, "it has no tokenizer"
        for batch in seen.validation_batches:
            sums.add(_terms(task, batch, False))
    loss, before = task.means(sums, "val")["val/loss"], seen.metrics["val/loss"]
    assert math.isclose(loss, before, rel_tol=1e-5), f"the validation loss was {before}, and is {loss} once loaded"


def export_is_equal(case: Case) -> None:
    """What transformers alone loads from the exported folder gives the same numbers."""
    seen, checkpoint = case.trained
    task = case.loaded()
    network = task.network
    assert network is not None
    with quiet():
        folder = export(checkpoint, case.folder / "exported", case.task_class, settings={})
        auto_class = getattr(transformers, task.auto_class)
        loaded = auto_class.from_pretrained(folder, attn_implementation=network.config._attn_implementation).eval()
    inputs = task.inputs(seen.validation_batches[0])
    with torch.inference_mode():
        pairs = zip(network(**inputs).to_tuple(), loaded(**inputs).to_tuple(), strict=True)
        off = max(float((a - b).abs().max()) for a, b in pairs if isinstance(a, Tensor))
    assert off < 1e-5, f"the outputs differ by {off:.1e}"


def predictions_are_complete(case: Case) -> None:
    """There is one prediction for each input, in the inputs' order, with their ids."""
    if not case.predicts:
        return
    for size in (2, 32):
        data = case.data(batch_tokens=None, batch_size=size)
        asked = [text.id for text in data.predict_inputs()]
        with quiet():
            batches: Any = case.trainer().predict(case.loaded(), data)
        got = [result["id"] for batch in batches for result in batch]
        assert got == asked, f"in batches of {size}, {len(asked)} inputs {asked} give {len(got)} predictions {got}"


def targets_restore_the_text(case: Case) -> None:
    """For objectives that hide tokens in place: the targets, put where the loss reads, give back texts of the corpus.

    It is not one of `CLAUSES`, for a task may have other targets; the layout must be "rows" or "packed".
    """
    data = case.data()
    batches = case.epoch(data)
    special = set(data.hf_tokenizer.all_special_ids)
    foreign = special - {data.hf_tokenizer.mask_token_id}
    before, after = map(list, data.frame)
    corpus = f" {' '.join(map(str, data.corpus.train.tokens.tolist()))} "
    for batch in batches:
        ids, index = batch["input_ids"].clone(), batch["target_index"]
        assert not special & set(batch["targets"].tolist()), "a target is a special token"
        assert not foreign & set(ids.flatten()[index].tolist()), "a special token that is not the mask hides a target"
        ids.view(-1)[index] = batch["targets"]
        for row, documents in zip(ids, batch["document_ids"], strict=True):
            for number in range(1, int(documents.max()) + 1):
                tokens = row[documents == number].tolist()
                text = tokens[len(before) : len(tokens) - len(after)]
                shown = repr(data.hf_tokenizer.decode(tokens))
                assert tokens == [*before, *text, *after], f"special tokens around a text are changed: {shown}"
                assert f" {' '.join(map(str, text))} " in corpus, f"no text of the corpus: {shown}"


CLAUSES: tuple[Clause, ...] = (
    fits,
    batches_keep_the_schema,
    loss_falls,
    workers_give_equal_batches,
    noise_ignores_the_batch,
    accumulation_is_equal,
    resume_is_equal,
    loads_without_data,
    export_is_equal,
    predictions_are_complete,
    every_argument_counts,
)
"""The contract, the quickest clauses first."""


def _terms(task: Task, batch: Batch, trains: bool) -> Terms:
    """The task's terms without dropout, as in training or as in evaluation."""
    task.train(trains)
    switch_dropout_off(task)
    with torch.no_grad():
        terms = task.terms(batch)
    task.eval()
    return terms


def _loss_terms(task: Task, batch: Batch, trains: bool) -> dict[str, Term]:
    return {name: term for name, term in _terms(task, batch, trains).items() if isinstance(term, Term)}


def _first_difference(own: Sequence[str], theirs: Sequence[str]) -> str:
    if len(own) != len(theirs):
        return f"{len(own)} batches without workers, {len(theirs)} with 2"
    return f"batch {next(i for i, (a, b) in enumerate(zip(own, theirs, strict=True)) if a != b)} differs"
