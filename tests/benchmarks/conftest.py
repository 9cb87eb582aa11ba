import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# Run from the checkout, not installed: their folder is the first on the path, as when they are run by name.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _own_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests' process keeps its kernels."""
    import agreement
    import peers

    monkeypatch.setattr(agreement, "prepare_cpu", lambda: {})
    monkeypatch.setattr(peers, "prepare_cpu", lambda *args, **kwargs: {})
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def job(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Small masked language modelling, prepared."""
    import peers
    from clock import Job

    job = Job(
        "prepare",
        text=[str(corpus)],
        folder=str(tmp_path_factory.mktemp("bench")),
        steps=2,
        max_length=32,
        vocab_size=600,
        size="tiny",
        batch_tokens=512,
        text_bytes=50_000,
        cache=str(cache),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        peers.prepare(job)
    return job


@pytest.fixture(scope="module")
def downstream_job(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small classifier, prepared."""
    import downstream
    import peers
    from clock import Job

    job = Job(
        "prepare",
        text=["builtin:modules"],
        folder=str(tmp_path_factory.mktemp("downstream")),
        steps=1,
        max_length=48,
        vocab_size=600,
        size="tiny",
        cache=str(cache),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        for module in (peers, downstream):
            patch.setattr(module, "prepare_cpu", lambda *args, **kwargs: {})
        assert downstream.prepare(job)["labels"] > 5
        yield job
