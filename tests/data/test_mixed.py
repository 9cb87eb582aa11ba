"""Whose turn a step is, against naive loops."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from ptm_lightning.data.layout import Frame, lay_out
from ptm_lightning.data.mixed import CYCLE, MixedPlan, apportion, named, of_part, turns
from ptm_lightning.data.plan import Plan


def plan(documents: int, *, window: int = 1, seed: int = 0, shuffle: bool = True) -> Plan:
    frame = Frame((1,), (2,))

    def rows(start: Any, length: Any, draw: Any) -> Any:
        return lay_out(start, length, draw, layout="rows", max_length=16, frame=frame)

    return Plan(np.arange(documents + 1) * 7, (0, documents), None, rows, frame, None, 4, window, seed, shuffle)


def mixed(weights: tuple[float, ...] | None = (3.0, 1.0), window: int = 1) -> MixedPlan:
    return MixedPlan((plan(30, window=window), plan(50, window=window, seed=1)), weights)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.7, 0.2, 0.1), (1, 1, 1), (0, 5), (1e-9, 1)])
def test_apportion_sums_up_and_is_off_by_less_than_one(weights: tuple[float, ...]) -> None:
    numbers = apportion(np.array(weights, dtype=float), 10)
    assert numbers.sum() == 10
    exact = [weight / sum(weights) * 10 for weight in weights]
    assert all(abs(number - share) < 1 for number, share in zip(numbers, exact, strict=True))


@pytest.mark.parametrize("counts", [(4, 1), (3, 3), (7, 2, 1), (5, 0), (1, 1, 1)])
def test_turns_are_those_of_a_naive_loop(counts: tuple[int, ...]) -> None:
    """The part that is furthest behind its time comes next: time is (n + 1/2) / k."""
    done, naive = [0] * len(counts), []
    for _ in range(sum(counts)):
        waiting = [part for part, count in enumerate(counts) if done[part] < count]
        part = min(waiting, key=lambda part: ((done[part] + 0.5) / counts[part], part))
        naive.append(part)
        done[part] += 1
    assert turns(np.array(counts)).tolist() == naive


def test_turns_are_spread_evenly() -> None:
    cycle = turns(apportion(np.array([0.8, 0.2]), 1000))
    for begin in range(0, 950, 7):
        for length in (5, 10, 50):
            assert abs((cycle[begin : begin + length] == 1).sum() - length / 5) <= 1


@pytest.mark.parametrize("weights", [None, (3.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("window", [1, 3])
def test_the_keys_are_each_part_s_own_in_order(weights: tuple[float, ...] | None, window: int) -> None:
    """A loop from the first step on that keeps a counter for each part."""
    mixture = mixed(weights, window)
    own = [list(islice(each.from_step(0), 400)) for each in mixture.plans]
    keys = [key for epoch in range(3) for key in mixture.from_window(epoch, 0)]
    seen: Counter[int] = Counter()
    for step in range(len(keys) // window):
        of_step = keys[step * window : (step + 1) * window]
        part = of_step[0][0]
        assert {key[0] for key in of_step} == {part}, "an optimizer step belongs to one part"
        assert mixture.steps_before(step).tolist() == [seen[0], seen[1]]
        assert [key[1:] for key in of_step] == own[part][seen[part] * window : (seen[part] + 1) * window]
        seen[part] += 1
    if weights:
        total = sum(seen.values())
        assert abs(seen[0] - total * weights[0] / sum(weights)) <= 1


def test_any_step_is_found_from_its_number() -> None:
    mixture = mixed(window=2)
    whole = [key for epoch in range(2) for key in mixture.from_window(epoch, 0)]
    for step in range(2 * mixture.steps(0)):
        epoch, window = mixture.where(step)
        rest = list(mixture.from_window(epoch, window))
        assert rest == whole[2 * step : 2 * step + len(rest)]
        assert len(rest) == 2 * (mixture.steps(epoch) - window)


def test_by_size_an_epoch_has_everything_once() -> None:
    mixture = mixed(None)
    keys = Counter(mixture.from_window(0, 0))
    assert keys == Counter((part, *key) for part in (0, 1) for key in mixture.plans[part].from_window(0, 0))


def test_the_steps_for_tokens_are_counted() -> None:
    mixture = mixed()
    tokens, step = 0, 0
    for part, *key in islice((key for epoch in range(9) for key in mixture.from_window(epoch, 0)), 60):
        tokens += int(mixture.plans[part].chunk(key[0], key[1]).tokens[key[2]])
        step += 1
        if step % 12 == 1:
            assert mixture.steps_for_tokens(tokens) == step
    assert mixture.extent().step_tokens == pytest.approx(tokens / step, rel=0.02)
    assert mixture.extent()[:3] == (80, 80 * 7, mixture.steps(0))
    assert len(mixture.turns) == CYCLE


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_takes_everything_once_and_each_process_has_every_part(processes: int) -> None:
    mixture = MixedPlan((plan(9, shuffle=False), plan(50, shuffle=False)), None)
    shares = [mixture.evaluation_keys(rank, processes) for rank in range(processes)]
    every = [(part, *key) for part in (0, 1) for key in mixture.plans[part].from_window(0, 0)]
    assert sorted(key for share in shares for key in share) == sorted(every)
    assert all({key[0] for key in share} == {0, 1} for share in shares)
    first_half = shares[0][: len(shares[0]) // 2 + 1]
    assert {key[0] for key in first_half} == {0, 1}, "a limit would cut a part off"


def test_a_batch_gets_its_part_s_name_and_back() -> None:
    batch: Any = {"counts": {"mlm": 3, "tokens": 20}}
    told = named(batch, "domain")
    assert told == {"part": "domain", "counts": {"domain/mlm": 3, "tokens": 20}}
    assert of_part(told)["counts"] == batch["counts"]
    assert batch == {"counts": {"mlm": 3, "tokens": 20}}
