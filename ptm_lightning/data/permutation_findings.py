"""What permutation language modelling must keep, held against real batches: for `check`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch, Rows
from ptm_lightning.data.noise import Bools
from ptm_lightning.data.show import show_place
from ptm_lightning.findings import Finding, faults, mean, share


@dataclass
class Seen:
    """Counts over batches, and the faults found in them."""

    sizes: list[int] = field(default_factory=list)
    """Tokens of each example."""
    targets: int = 0
    stretches: int = 0
    """Of targets that stand next to each other."""
    changed: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    wrong_targets: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)


def permutation_findings(
    seen: Sequence[tuple[Rows, Batch]], tokenizer: PreTrainedTokenizerFast, *, longest: int, one_in: int
) -> Iterator[Finding]:
    """Compares rows of text with the batches made of them.

    Args:
        seen: Rows, and the batch.
        tokenizer: For examples in words.
        longest: The longest span of targets.
        one_in: One in so many tokens is to be a target.
    """
    total = Seen()
    for rows, batch in seen:
        _count(total, rows, batch, tokenizer)
    tokens, stretches = sum(total.sizes), expected_stretches(max(total.sizes, default=0), longest, one_in)
    expected = sum(max(size / one_in, 1) for size in total.sizes)
    yield share("targets among tokens", expected / max(1, tokens), total.targets, tokens)
    asked = expected / max(1.0, sum(stretches[size] for size in total.sizes))
    yield mean("targets that stand together", asked, total.targets, total.stretches, longest / 2)
    yield faults("tokens that are changed", total.changed, tokens)
    yield faults("special tokens among the targets", total.special, total.targets)
    yield faults("targets that are not the text", total.wrong_targets, total.targets)
    yield faults("orders that are no permutation", total.orders, tokens)


def _count(total: Seen, rows: Rows, batch: Batch, tokenizer: PreTrainedTokenizerFast) -> None:
    ids, index = rows.input_ids.ravel(), batch["target_index"].numpy()
    total.sizes += np.unique(rows.example, return_counts=True)[1].tolist()
    total.targets += len(index)
    target = np.zeros(ids.size, dtype=np.bool_)
    target[index] = True
    total.stretches += _stretches(rows, target)

    def shown(places: list[int]) -> list[str]:
        return [show_place(rows.input_ids, place, tokenizer) for place in places]

    total.changed += shown(np.flatnonzero(ids != batch["input_ids"].numpy().ravel()).tolist())
    total.special += shown(np.setdiff1d(index, rows.content).tolist())
    wrong = np.flatnonzero(ids[index] != batch["targets"].numpy())
    said = tokenizer.convert_ids_to_tokens(batch["targets"].numpy()[wrong].tolist())
    places = shown(index[wrong].tolist())
    total.wrong_targets += [f"{right} became {token!r}" for right, token in zip(places, said, strict=True)]
    steps = [sorted(row[row > 0].tolist()) for row in batch["order"].numpy()]
    total.orders += [f"steps {row}" for row in steps if row != list(range(1, len(row) + 1))]


def _stretches(rows: Rows, target: Bools) -> int:
    """How often a target follows none in its example."""
    chosen = target[rows.content]
    follows = np.append(False, chosen[:-1] & (np.diff(rows.example) == 0)) if len(chosen) else chosen
    return int((chosen & ~follows).sum())


def expected_stretches(most: int, longest: int, one_in: int) -> list[float]:
    """How many stretches of targets there are, on average, in an example of 0, 1, ... `most` tokens.

    A context of `one_in` times L tokens holds a span of L at a random place, where L is 1 to `longest`; the last one,
    cut short, holds its share. Spans that touch are one stretch.
    """
    whole, later, touched = ([0.0] for _ in range(3))
    for left in range(1, most + 1):
        starts = touches = opens = 0.0
        for length in range(1, longest + 1):
            context = one_in * length
            if context <= left:
                edge = 1 / (context - length + 1)
                starts += 1 + edge * touched[left - context] + (1 - edge) * later[left - context]
                touches += edge
                continue
            short, more = divmod(left / one_in, 1)
            any_target = 1 if short else more
            starts += any_target
            opens += 1 - any_target
            chances = ((short, 1 - more), (short + 1, more))
            touches += sum(chance / (left - size + 1) for size, chance in chances if size)
        later.append(starts / longest)
        touched.append((starts - touches) / longest)
        whole.append((starts + opens) / longest)
    return whole
