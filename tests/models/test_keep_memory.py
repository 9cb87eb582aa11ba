import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ptm_lightning.models import kernels

CODE = """
import platform, resource, torch
from ptm_lightning.models.kernels import keep_freed_memory
assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_freed_memory_is_used_again() -> None:
    """16 MB, taken and given back ten times: 39,000 page faults when glibc maps them anew each time."""
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000


GAPS = """
import re, torch
from ptm_lightning.models.kernels import keep_freed_memory, trim_freed_memory
def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
trim_freed_memory()
kept = keep_freed_memory()
blocks = [torch.ones(250_000) for _ in range(200)]
del blocks[::2]
before = resident()
trim_freed_memory()
print(kept, before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_gaps_are_given_back() -> None:
    """A hundred gaps of 1 MB between blocks that are in use."""
    found = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    kept, given_back = found.stdout.split()
    assert float(given_back) > 80 or kept == "False"


SHAPES = """
import torch
from ptm_lightning.models.kernels import KEPT_PRIMITIVES, prepare_cpu
prepare_cpu("medium")
for rows in (*range(2, KEPT_PRIMITIVES + 9), 2):
    torch.ones(rows, 64) @ torch.ones(64, 64)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
@pytest.mark.parametrize(("setting", "kept"), [({}, False), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "999"}, True)])
def test_onednn_keeps_kernels_of_few_shapes(setting: dict[str, str], kept: bool) -> None:
    """The first shape, met again after as many others as are kept, is compiled again; not if the user says more."""
    environment = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    environment |= {"ONEDNN_VERBOSE": "profile_create"} | setting
    found = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, check=True, env=environment)
    created = [line for line in found.stdout.splitlines() if ",matmul," in line and "create:" in line]
    if not created:
        pytest.skip("this processor's fp32 matrix products don't run in oneDNN")
    assert ("create:cache_hit" in created[-1]) is kept


def test_memory_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(kernels, "_glibc", SimpleNamespace(malloc_trim=given.append))
    now = iter(range(1000))
    monkeypatch.setattr(kernels, "_trimmed_at", -1.0)
    monkeypatch.setattr(kernels.time, "monotonic", lambda: next(now))
    for count in range(1, 2 * kernels.TRIMMED_EVERY + 2):
        kernels.trim_freed_memory(count)
    assert len(given) == 2
    kernels.trim_freed_memory()
    assert len(given) == 3


def test_quick_steps_give_memory_back_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(kernels, "_glibc", SimpleNamespace(malloc_trim=given.append))
    monkeypatch.setattr(kernels, "_trimmed_at", 0.0)
    for count in range(1, 1002):
        monkeypatch.setattr(kernels.time, "monotonic", lambda now=count: now * 0.001)
        kernels.trim_freed_memory(count)
    assert len(given) == 2
