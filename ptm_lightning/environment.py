"""What the bits of a run depend on besides its config: versions, threads, precision, processor."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "numpy", "ptm-lightning")


def environment(precision: str = "32-true", world_size: int = 1) -> dict[str, Any]:
    """What the bits of a run depend on besides its config.

    Args:
        precision: The Trainer's.
        world_size: The number of processes.

    Returns:
        Plain values, by name.
    """
    return {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "matrix products": torch.get_float32_matmul_precision(),
        "precision": precision,
        "processes": world_size,
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **{f"version of {name}": installed(name) for name in PACKAGES},
    }


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words.

    Args:
        stored: An `environment` of then.
        now: The present one.

    Returns:
        One clause for each, like "threads: 4 then, 2 now"; empty if the bits will be the same.
    """
    names = [*stored, *(name for name in now if name not in stored)]
    return [
        f"{name}: {stored.get(name, 'unknown')} then, {now.get(name, 'unknown')} now"
        for name in names
        if stored.get(name) != now.get(name)
    ]


@cache
def installed(package: str) -> str:
    """The version of a package; "none" if it isn't there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
