from pathlib import Path

import pytest
import torch

from ptm_lightning.models import cores
from ptm_lightning.models.cores import granted_cores, limit_threads

GROUPS = {
    "no group": ("", {}, None),
    "no limit": ("0::/a", {"a/cpu.max": "max 100000\n", "cpu.max": "max 100000\n"}, None),
    "its own": ("0::/a/b", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "the strictest": ("0::/a/b", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 25000\n"}, 2.0),
    "a container's, at the top": ("0::/host/path", {"cpu.max": "300000 100000\n"}, 3.0),
    "version 1": (
        "5:memory:/x\n4:cpu,cpuacct:/x\n0::/",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
        2.0,
    ),
    "version 1, named the other way round": (
        "4:cpuacct,cpu:/x",
        {"cpu/x/cpu.cfs_quota_us": "50000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "nonsense": ("0::/a\nx", {"a/cpu.max": "much 0\n", "cpu.max": "100000 0\n"}, None),
    "version 1 without": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    "of memory": ("5:memory:/x", {"memory/x/cpu.max": "100000 100000\n"}, None),
}


def lay_out(folder: Path, name: str) -> tuple[Path, Path]:
    own, files, _ = GROUPS[name]
    (folder / "own").write_text(own)
    for path, text in files.items():
        (folder / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "root" / path).write_text(text)
    return folder / "own", folder / "root"


@pytest.mark.parametrize("name", GROUPS)
def test_the_limit_of(name: str, tmp_path: Path) -> None:
    assert granted_cores(*lay_out(tmp_path, name)) == GROUPS[name][-1]


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert granted_cores(tmp_path / "own", tmp_path / "root") is None


@pytest.mark.parametrize(
    ("name", "said", "expected"), [("its own", None, 2), ("no limit", None, 7), ("its own", "7", 7)]
)
def test_threads(name: str, said: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = [7]
    own, root = lay_out(tmp_path, name)
    monkeypatch.setattr(cores, "OWN", own)
    monkeypatch.setattr(cores, "CGROUPS", root)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    limit_threads()
    assert set_to[-1] == expected
