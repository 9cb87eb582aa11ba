"""Batches made ahead by a thread: the same, in order, and not too many of them."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLMData

from ptm_lightning.data.loader import Place
from ptm_lightning.data.prefetch import prefetched
from ptm_lightning.testing_case import digest

AHEAD = 3


class Counted:
    """Numbers, and what is known of their making."""

    def __init__(self, end: int) -> None:
        self.end, self.made, self.threads = end, 0, set[str]()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.end):
            self.made += 1
            self.threads.add(threading.current_thread().name)
            yield number


def prefetching() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("end", [0, 1, AHEAD, 20])
def test_all_come_in_order_by_one_other_thread(end: int):
    source = Counted(end)
    assert list(prefetched(source, AHEAD)) == list(range(end))
    assert len(source.threads) == min(end, 1)
    assert threading.current_thread().name not in source.threads


def test_no_more_are_made_than_are_waited_for():
    source = Counted(20)
    for number in prefetched(source, AHEAD):
        assert number < source.made <= number + 1 + AHEAD


def test_an_error_comes_at_its_place_and_ends_it():
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    numbers = prefetched(broken(), AHEAD)
    assert [next(numbers) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(numbers)
    assert list(numbers) == []


def test_closed_early_it_leaves_no_thread():
    numbers = prefetched(Counted(1000), AHEAD)
    assert next(numbers) == 0
    assert prefetching() == 1
    numbers.close()  # type: ignore[attr-defined]
    assert prefetching() == 0


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_for_cuda_batches_are_made_ahead_and_are_the_same(tmp_path: Path, corpus: Path, accumulate: int):
    data = MaskedLMData(train=[str(corpus)], vocab_size=400, batch_size=4)
    data.trainer = Trainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    on_cpu: Any = data.train_dataloader()
    on_cuda = replace(on_cpu, place=Place(cuda=True))
    assert len(list(on_cpu)) > 5
    assert digest(list(on_cuda)) == digest(list(on_cpu))
    evaluation: Any = data.val_dataloader()
    assert digest(list(replace(evaluation, cuda=True))) == digest(list(evaluation))
