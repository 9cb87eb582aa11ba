"""CPU kernels: freed memory is kept, and fp32 matrix products take the faster library where it is as exact."""

import ctypes
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from ptm_lightning.data.cache import cache_folder
from ptm_lightning.files import shared_write
from ptm_lightning.levers import is_on

Matmul = Literal["auto", "default", "medium"]

MIN_SPEEDUP = 1.05
MAX_ERROR_RATIO = 2.0
PROBE_SECONDS = 0.12
TRIMMED_EVERY = 20
UNTRIMMED_SECONDS = 0.5
KEPT_PRIMITIVES = 64
"""Kernels that oneDNN keeps, each compiled for the shape of its arguments; a step needs about 30."""

# glibc's mallopt, <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_glibc: ctypes.CDLL | None = None
"""Set once freed memory is kept."""
_trimmed_at = 0.0
"""When it was last given back, by the monotonic clock in seconds."""


def prepare_cpu(matmul: Matmul = "auto") -> dict[str, str]:
    """Sets the kernels of this process, once, before a network is built, as far as `levers` are on.

    torch's fp32 matrix products run in MKL, which is slow on AMD. With the precision "medium" they run in oneDNN: true
    fp32 there, but bfloat16 on machines with matrix units for it. So "auto" measures speed and error on this machine.

    Args:
        matmul: "auto" to measure, "medium" or "default" to take that without measuring, as a resumed run does.

    Returns:
        What is used, by the lever's name: "default" for torch's own.
    """
    chosen = "default" if not is_on("matmul") else _choose_matmul() if matmul == "auto" else matmul
    torch.set_float32_matmul_precision(_precision(chosen))
    kept = is_on("allocator") and keep_freed_memory()
    own = {name: "own" if is_on(name) else "default" for name in ("attention", "dropout")}
    return {"matmul": chosen, "allocator": "kept" if kept else "default", **own}


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory: large logits, given back and mapped again each step, cost page faults.

    oneDNN is told to keep fewer kernels than its 1024, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY says how many: rows of
    many lengths need others at each step, and those of past steps lie where freed memory would be used again. It looks
    before its first kernel.

    Returns:
        Whether that was done: only glibc on Linux has the setting.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_PRIMITIVES))
    global _glibc
    _glibc = ctypes.CDLL("libc.so.6")
    return bool(_glibc.mallopt(_M_MMAP_MAX, 0)) and bool(_glibc.mallopt(_M_TRIM_THRESHOLD, -1))


def trim_freed_memory(count: int = 0) -> None:
    """Gives the pages of freed memory back to the system, if it was kept: now, or at every `TRIMMED_EVERY` of a count.

    Rows of many lengths leave gaps that nothing fits into. In a thousand steps they become several times what a step
    needs; given back every twenty steps, they stay below it. It takes two milliseconds, so that steps which are as
    quick wait for `UNTRIMMED_SECONDS` besides.

    Args:
        count: Of steps, or of batches of an evaluation.
    """
    global _trimmed_at
    now = time.monotonic()
    if _glibc is None or count % TRIMMED_EVERY or (count and now < _trimmed_at + UNTRIMMED_SECONDS):
        return
    _glibc.malloc_trim(0)
    _trimmed_at = now


def matmul_speed(dtype: torch.dtype) -> float:
    """Matrix-product speed of this process with the kernels chosen, for an estimate of the time.

    Args:
        dtype: The type of the factors.

    Returns:
        Floating point operations per second (2 * m * n * k for each product), the best of a few.
    """
    left, right = _factors(dtype)
    return 2 * left.shape[0] * left.shape[1] * right.shape[1] / _fastest([lambda: left @ right], time.perf_counter)[0]


def measure() -> dict[str, float]:
    """Compares fp32 matrix products of precision "medium" with the default, in speed and error, in about 0.3 s.

    Returns:
        "speedup": how many times faster "medium" is; "error_ratio": its error over the default's own, both against
        float64.
    """
    left, right = _factors(torch.float32)
    before = torch.get_float32_matmul_precision()
    try:
        calls = [partial(_multiply, left, right, precision) for precision in ("highest", "medium")]
        # The thread's own time: on a busy machine the clock on the wall would compare the neighbours.
        seconds = _fastest(calls, time.thread_time)
        errors = [_error(precision) for precision in ("highest", "medium")]
    finally:
        torch.set_float32_matmul_precision(before)
    return {"speedup": seconds[0] / seconds[1], "error_ratio": errors[1] / errors[0]}


def _choose_matmul() -> str:
    """The cached choice for this machine, else a measured one."""
    path = cache_folder(None) / "kernels.json"
    key = f"{_cpu_model()} | torch {torch.__version__} | {torch.get_num_threads()} threads"
    known = _read(path)
    if known.get(key) not in ("default", "medium"):
        found = measure()
        good = found["speedup"] > MIN_SPEEDUP and found["error_ratio"] <= MAX_ERROR_RATIO
        known[key] = "medium" if good else "default"
        _write(path, known)
    return known[key]


def _precision(matmul: str) -> Literal["highest", "medium"]:
    return "medium" if matmul == "medium" else "highest"


def _multiply(left: Tensor, right: Tensor, precision: str) -> Tensor:
    torch.set_float32_matmul_precision(precision)
    return left @ right


def _factors(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two factors of 1 GFLOP (512, 1024) and (1024, 1024), the same each time; the global random state is not used."""
    generator = torch.Generator("cpu").manual_seed(0)
    left = torch.randn(512, 1024, generator=generator)
    return left.to(dtype), torch.randn(1024, 1024, generator=generator).to(dtype)


def _fastest(calls: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """The least time of each call in seconds, taken in turns, so that load on the machine meets all of them."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + PROBE_SECONDS
    rounds = 0
    while rounds < 2 or time.perf_counter() < end:
        for number, call in enumerate(calls):
            start = clock()
            call()
            best[number] = min(best[number], clock() - start)
        rounds += 1
    return best


def _error(precision: str) -> float:
    """The largest relative error against float64 of the three products of a layer: forward, and both gradients."""
    left, right = _factors(torch.float32)
    left = left[:128]
    pairs = [(left, right), (left, right.T), (left.T, left[:, :256])]
    return max(_relative_error(_multiply(a, b, precision), a.double() @ b.double()) for a, b in pairs)


def _relative_error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


def _cpu_model() -> str:
    """The processor's name, as the kernel gives it where it does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    identity = [names[name] for name in ("model name", "cpu family", "model") if name in names]
    return " ".join(identity) or platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, str]:
    """The choices of earlier runs; a missing or damaged file is one without choices."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, str], found) if isinstance(found, dict) else {}


def _write(path: Path, choices: dict[str, str]) -> None:
    """A read-only home only costs the next probe."""
    with suppress(OSError):
        shared_write(path, json.dumps(choices, indent=1))
