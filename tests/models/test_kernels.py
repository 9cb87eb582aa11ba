import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ptm_lightning import levers
from ptm_lightning.models import kernels


@pytest.fixture(autouse=True)
def _restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setenv("PTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "keep_freed_memory", lambda: True)  # would outlive the test
    yield
    levers.switch_off([])
    torch.set_float32_matmul_precision(before)


def probe(monkeypatch: pytest.MonkeyPatch, speedup: float, error_ratio: float) -> list[int]:
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"speedup": speedup, "error_ratio": error_ratio}

    monkeypatch.setattr(kernels, "measure", measure)
    return calls


@pytest.mark.parametrize(
    ("speedup", "error_ratio", "expected", "precision"),
    [
        (2.2, 1.6, "medium", "medium"),
        (1.04, 1.0, "default", "highest"),  # not worth it
        (8.0, 7000.0, "default", "highest"),  # bfloat16 in disguise
    ],
)
def test_auto_takes_medium_only_where_faster_and_as_exact(
    monkeypatch: pytest.MonkeyPatch, speedup: float, error_ratio: float, expected: str, precision: str
) -> None:
    probe(monkeypatch, speedup, error_ratio)
    assert kernels.prepare_cpu() == {
        "matmul": expected,
        "allocator": "kept",
        "attention": "own",
        "dropout": "own",
    }
    assert torch.get_float32_matmul_precision() == precision


def test_a_second_run_takes_the_cached_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = probe(monkeypatch, 2.2, 1.6)
    first = kernels.prepare_cpu()
    assert kernels.prepare_cpu() == first
    assert first["matmul"] == "medium"
    assert len(calls) == 1
    files = list((tmp_path / "cache").iterdir())
    assert [file.name for file in files] == ["kernels.json"]
    (key,) = json.loads(files[0].read_text())
    assert f"torch {torch.__version__} | {torch.get_num_threads()} threads" in key


@pytest.mark.parametrize("damage", ["{", "[]", '{"x": 3}'])
def test_a_damaged_cache_is_written_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    calls = probe(monkeypatch, 2.2, 1.6)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels.json").write_text(damage)
    kernels.prepare_cpu()
    kernels.prepare_cpu()
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_only_costs_the_probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probe(monkeypatch, 2.2, 1.6)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PTM_CACHE", str(tmp_path / "file" / "below"))
    assert kernels.prepare_cpu()["matmul"] == "medium"


@pytest.mark.parametrize(("matmul", "precision"), [("medium", "medium"), ("default", "highest")])
def test_a_resumed_run_does_not_measure(monkeypatch: pytest.MonkeyPatch, matmul: str, precision: str) -> None:
    calls = probe(monkeypatch, 2.2, 1.6)
    assert kernels.prepare_cpu(matmul)["matmul"] == matmul
    assert torch.get_float32_matmul_precision() == precision
    assert not calls


@pytest.mark.parametrize("name", levers.LEVERS)
def test_each_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    probe(monkeypatch, 2.2, 1.6)
    on = kernels.prepare_cpu()
    levers.switch_off([name])
    assert kernels.prepare_cpu() == on | {name: "default"}
    assert torch.get_float32_matmul_precision() == ("highest" if name == "matmul" else "medium")


def test_measuring_restores_the_precision_and_the_random_state() -> None:
    torch.set_float32_matmul_precision("high")
    state = torch.get_rng_state()
    found = kernels.measure()
    assert found["speedup"] > 0
    assert found["error_ratio"] > 0.5
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.equal(torch.get_rng_state(), state)


def test_the_error_tells_bfloat16_from_fp32() -> None:
    left, right = torch.randn(64, 256), torch.randn(256, 64)
    exact = left.double() @ right.double()
    fp32 = kernels._relative_error(left @ right, exact)
    bf16 = kernels._relative_error((left.bfloat16() @ right.bfloat16()).float(), exact)
    assert bf16 > 100 * kernels.MAX_ERROR_RATIO * fp32


def test_matmul_speed_is_plausible() -> None:
    assert 1e8 < kernels.matmul_speed(torch.float32) < 1e15
