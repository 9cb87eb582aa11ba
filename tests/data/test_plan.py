import pickle
from functools import partial

import numpy as np
import pytest

from ptm_lightning.data import plan as plan_module
from ptm_lightning.data.layout import Frame, lay_out
from ptm_lightning.data.plan import Plan, split_batches
from ptm_lightning.errors import UserError


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(plan_module, "CHUNK_TOKENS", 4000)


def make(documents: int = 500, **changes) -> Plan:
    lengths = np.minimum(np.random.default_rng(0).lognormal(3, 0.8, documents).astype(int) + 1, 300)
    layout = {"layout": "rows", "max_length": 64, "frame": Frame((2,), (3,))}
    layout |= {name: changes.pop(name) for name in ("layout", "max_length") if name in changes}
    arguments = {
        "lay_out": partial(lay_out, **layout),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "sources": (0, documents),
        "shares": None,
        "frame": layout["frame"],
        "batch_tokens": 512,
        "batch_size": None,
    }
    return Plan(**(arguments | changes))


def tokens_of(plan: Plan, epoch: int) -> np.ndarray:
    seen = np.zeros(plan.offsets[-1], dtype=int)
    for epoch_, chunk, index in plan.from_window(epoch, 0):
        pieces = plan.chunk(epoch_, chunk).microbatch(index)
        for start, length in zip(pieces.start, pieces.length, strict=True):
            seen[start : start + length] += 1
    return seen


@pytest.mark.parametrize("layout", ["rows", "packed", "blocks"])
@pytest.mark.parametrize("window", [1, 3])
def test_an_epoch_has_every_token_once_in_whole_windows(layout, window):
    plan = make(layout=layout, window=window)
    assert plan.chunks(0) > 1
    for epoch in (0, 1):
        assert (tokens_of(plan, epoch) == 1).all()
        assert len(list(plan.from_window(epoch, 0))) == plan.steps(epoch) * window


def test_where_is_the_inverse_of_counting():
    plan = make(window=2)
    step = 0
    for epoch in range(3):
        for window in range(plan.steps(epoch)):
            assert plan.where(step) == (epoch, window)
            step += 1


def test_from_window_is_the_rest_of_the_epoch():
    plan = make(window=2)
    whole = list(plan.from_window(1, 0))
    for window in (1, 5, plan.steps(1) - 1):
        assert list(plan.from_window(1, window)) == whole[window * 2 :]


def test_epochs_differ_and_seeds_differ_and_equal_arguments_are_equal():
    def first(plan, epoch):
        return plan.chunk(epoch, 0).microbatch(0).start.tolist()

    assert first(make(), 0) == first(make(), 0) == first(pickle.loads(pickle.dumps(make())), 0)
    assert first(make(), 0) != first(make(), 1)
    assert first(make(), 0) != first(make(seed=1), 0)


def test_budget_and_padding(monkeypatch):
    monkeypatch.setattr(plan_module, "CHUNK_TOKENS", 2**21)
    plan = make(5000)
    places = tokens = 0
    for epoch, chunk, index in plan.from_window(0, 0):
        lengths = plan.chunk(epoch, chunk).microbatch(index).row_lengths(plan.frame)
        assert lengths.max() * len(lengths) <= 512
        places += lengths.max() * len(lengths)
        tokens += lengths.sum()
    assert tokens / places > 0.93


def test_batch_size_counts_rows():
    plan = make(batch_tokens=None, batch_size=7)
    sizes = [len(rows) for chunk in range(plan.chunks(0)) for rows in plan.chunk(0, chunk).batches]
    assert max(sizes) == 7


def test_shares_are_shares_of_tokens_and_repeat_evenly():
    plan = make(600, sources=(0, 500, 600), shares=(1.0, 1.0))
    border = plan.offsets[500]
    seen = sum(tokens_of(plan, epoch) for epoch in range(4))
    assert abs(seen[:border].sum() / seen.sum() - 0.5) < 0.03
    assert seen[border:].max() - seen[border:].min() <= 1


def test_repeated_documents_are_drawn_with_other_noise():
    plan = make(600, sources=(0, 500, 600), shares=(1.0, 1.0))
    draws = np.concatenate([plan.chunk(0, i).pieces.draw for i in range(plan.chunks(0))])
    assert len(np.unique(draws)) > 2


def test_validation_keeps_its_order_and_draw():
    plan = make(shuffle=False)
    assert (plan.chunk(0, 0).pieces.draw == 0).all()
    assert (tokens_of(plan, 0) == 1).all()


@pytest.mark.parametrize("budget", [1, 5000, 40_000])
def test_steps_for_tokens(budget):
    plan = make(window=2)
    steps = plan.steps_for_tokens(budget)
    seen, counts = 0, []
    for epoch in range(10):
        for chunk in range(plan.chunks(epoch)):
            counts += plan.chunk(epoch, chunk).tokens.reshape(-1, 2).sum(axis=1).tolist()
    seen = np.cumsum(counts)
    assert seen[steps - 1] >= budget
    assert steps == 1 or seen[steps - 2] < budget


def test_too_small_a_corpus_is_said():
    with pytest.raises(UserError, match="the corpus is too small: 2 rows for an optimizer step of 3"):
        make(2, window=3, max_length=400).steps(0)


def test_split_batches_loses_nothing():
    batches = [np.arange(10), np.arange(10, 13)]
    split = split_batches(batches, 4)
    assert len(split) == 4
    assert sorted(np.concatenate(split)) == list(range(13))
