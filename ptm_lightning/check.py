"""check: holds an objective to its own words on real batches, with the user's tokenizer and text."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, target_width
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.show import show_place
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import ordinary_ids
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.task import Task

BATCHES = 20
PROBED = 12
"""Batches in which the sight of targets is tested,"""
CANDIDATES = 16
"""of so many those from which most is hidden."""
UNSEEN = 1e-4
"""The largest change of a logit, over the largest logit, that rounding explains."""


def check(task: Task, data: TaskData, trainer: Trainer) -> bool:
    """Prints a table of what was asked for, what was found, and an example of each fault.

    Args:
        task: The objective; its network has random weights, or the backbone's.
        data: Its data module.
        trainer: Only connects the two.

    Returns:
        Whether all holds.

    Raises:
        UserError: There is nothing that it could be held to.
    """
    trainer.strategy.connect(task)
    data.trainer = task.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]  # as Lightning connects them
    data.prepare_data()
    data.setup("fit")
    task.setup("check")
    seen = list(islice(seen_batches(data), BATCHES))
    task.eval()
    batches = [batch for _, batch in seen]
    findings = [*data.findings(seen), *task.findings(batches), *sight(task, data, batches)]
    if not findings:
        raise UserError(f"check: {type(task).__name__} hides nothing from its targets; inspect shows its batches")
    print_findings(findings)
    return not any(finding.wrong for finding in findings)


def seen_batches(data: TaskData) -> Iterator[tuple[Pieces, Batch]]:
    """The batches of the first epoch, each with the pieces of text that it was made of."""
    batches = data.train_batches
    for key in batches.plan.from_window(0, 0):
        yield batches.pieces(key), batches[key]


def sight(task: Task, data: TaskData, batches: Sequence[Batch]) -> Iterator[Finding]:
    """Changes what a target may not see, and then all else: its prediction must stay, and then move."""
    others = torch.from_numpy(ordinary_ids(data.hf_tokenizer))
    leaks: list[str] = []
    probed = blind = 0
    for batch in [batch for batch in batches if "target_index" in batch][:PROBED]:
        for number, hidden in _most_hidden(task, batch).items():
            before, later = _prediction(task, batch, number), _later_places(batch, number)
            seen = _prediction(task, _changed(batch, ~hidden, ~later, others), number)
            unseen = _prediction(task, _changed(batch, hidden, later, others), number)
            probed += 1
            blind += _difference(seen, before) <= UNSEEN
            if (change := _difference(unseen, before)) > UNSEEN:
                place = _show_target(batch, number, data.hf_tokenizer)
                leaks.append(f"the prediction at {place} moves by {change:.1e} when what it may not see changes")
    if blind:
        leaks.append(f"{blind} predictions don't depend on the text at all")
    if probed:
        yield Finding("predictions that see what they may not", "0", str(len(leaks)), "; ".join(leaks[:1]))


def _most_hidden(task: Task, batch: Batch) -> dict[int, Tensor]:
    """Of some targets, the one from which most of its own row is hidden, and the one from which most before it is.

    The latter tells whether earlier documents are seen where later places never are.

    Returns:
        By the number of the target, what is hidden (R, T). None if nothing is hidden.
    """
    count, width = len(batch["target_index"]), target_width(batch)
    if not count:
        return {}
    tried = {number: task.hidden_from(batch, number) for number in range(0, count, -(-count // CANDIDATES))}

    def in_its_row(number: int, *, before: bool) -> int:
        row, place = divmod(int(batch["target_index"][number]), width)
        return int(tried[number][row, : place if before else None].sum())

    most = (max(tried, key=partial(in_its_row, before=before)) for before in (False, True))
    return {number: tried[number] for number in most if tried[number].any()}


def _show_target(batch: Batch, number: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """The place that says the batch's nth target, in words: in the decoder's rows, where there is one."""
    rows = batch["decoder_input_ids"] if "decoder_input_ids" in batch else batch["input_ids"]
    return show_place(rows, int(batch["target_index"][number]), tokenizer)


def _prediction(task: Task, batch: Batch, number: int) -> Tensor:
    with torch.inference_mode():
        return task.logits_at_targets(batch)[number].float()


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest, over the largest logit."""
    return float((one - other).abs().max() / other.abs().max())


def _later_places(batch: Batch, number: int) -> Tensor:
    """(R, U) bool: places of the decoder after the one that says the batch's nth target, and other rows."""
    if "decoder_input_ids" not in batch:
        return torch.zeros(0, dtype=torch.bool)
    row, place = divmod(int(batch["target_index"][number]), target_width(batch))
    later = torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool)
    later[row, : place + 1] = False
    return later


def _changed(batch: Batch, where: Tensor, later: Tensor, others: Tensor) -> Batch:
    """The batch with other ordinary ids at some places of its input, and of its decoder's, if it has one."""

    def new(ids: Tensor, places: Tensor) -> Tensor:
        drawn = others[(ids * 7919 + torch.arange(ids.numel()).view_as(ids)) % len(others)]
        return torch.where(places, drawn, ids)

    changed: Batch = {**batch, "input_ids": new(batch["input_ids"], where)}
    if "decoder_input_ids" in batch:
        changed["decoder_input_ids"] = new(batch["decoder_input_ids"], later)
    return changed


def print_findings(findings: Iterable[Finding]) -> None:
    """One line for each, and below it what is wrong."""
    print(f"{'':<7}{'':<46}{'asked':>12}{'found':>12}{'allowed':>12}")
    for finding in findings:
        mark, allowed = "FAILED" if finding.wrong else "ok", f"±{finding.allowed}" if finding.allowed else ""
        print(f"{mark:<7}{finding.what:<46}{finding.asked:>12}{finding.found:>12}{allowed:>12}".rstrip())
        if finding.wrong:
            print(f"{'':<7}{finding.wrong}")
