"""check: holds an objective to its own words on real batches, with the user's tokenizer and text."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ptm_lightning.data.batch import Batch, target_width
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import ordinary_ids
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.task import Task

BATCHES = 20
PROBED = 12
"""Targets whose sight is tested, each of another batch,"""
CANDIDATES = 16
"""and the one of so many from which most is hidden."""
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
    findings = [*data.findings(seen), *sight(task, data, [batch for _, batch in seen if "target_index" in batch])]
    if not findings:
        raise UserError(f"check: {type(task).__name__} hides nothing from its targets; inspect shows its batches")
    print_findings(findings)
    return not any(finding.wrong for finding in findings)


def seen_batches(data: TaskData) -> Iterator[tuple[Pieces, Batch]]:
    """The batches of the first epoch, each with the pieces of text that it was made of."""
    collate = data.collator(data.corpus.train, evaluate=False)
    for epoch, chunk, index in data.plan.from_window(0, 0):
        pieces = data.plan.chunk(epoch, chunk).microbatch(index)
        yield pieces, collate(pieces)


def sight(task: Task, data: TaskData, batches: Sequence[Batch]) -> Iterator[Finding]:
    """Changes what a target may not see, and then all else: its prediction must stay, and then move."""
    task.eval()
    others = torch.from_numpy(ordinary_ids(data.hf_tokenizer))
    leaks: list[str] = []
    probed = blind = 0
    for batch in batches[:PROBED]:
        number, hidden = _most_hidden(task, batch)
        if not hidden.any():
            continue
        before = _prediction(task, batch, number)
        scale = float(before.abs().max())
        unseen = float((_prediction(task, _changed(batch, hidden, others), number) - before).abs().max()) / scale
        seen = float((_prediction(task, _changed(batch, ~hidden, others), number) - before).abs().max()) / scale
        probed += 1
        blind += seen <= UNSEEN
        if unseen > UNSEEN:
            place = int(batch["target_index"][number])
            leaks.append(f"the prediction at place {place} moves by {unseen:.1e} when what it may not see changes")
    if blind:
        leaks.append(f"{blind} predictions don't depend on the text at all")
    if probed:
        yield Finding("predictions that see what they may not", "0", str(len(leaks)), "; ".join(leaks[:1]))


def _most_hidden(task: Task, batch: Batch) -> tuple[int, Tensor]:
    """Of some targets, the one from which most of its own row is hidden, and what is hidden (R, T)."""
    count = len(batch["target_index"])
    tried = [(number, task.hidden_from(batch, number)) for number in range(0, count, -(-count // CANDIDATES))]

    def in_its_row(number: int, hidden: Tensor) -> int:
        return int(hidden[int(batch["target_index"][number]) // target_width(batch)].sum())

    return max(tried, key=lambda each: in_its_row(*each))


def _prediction(task: Task, batch: Batch, number: int) -> Tensor:
    with torch.inference_mode():
        return task.logits_at_targets(batch)[number].float()


def _changed(batch: Batch, where: Tensor, others: Tensor) -> Batch:
    """The batch with other ordinary ids at some places of its input."""
    ids = batch["input_ids"]
    new = others[(ids * 7919 + torch.arange(ids.numel()).view_as(ids)) % len(others)]
    return {**batch, "input_ids": torch.where(where, new, ids)}


def print_findings(findings: Iterable[Finding]) -> None:
    """One line for each, and below it what is wrong."""
    print(f"{'':<7}{'':<46}{'asked':>12}{'found':>12}")
    for finding in findings:
        print(f"{'FAILED' if finding.wrong else 'ok':<7}{finding.what:<46}{finding.asked:>12}{finding.found:>12}")
        if finding.wrong:
            print(f"{'':<7}{finding.wrong}")
