"""The ratios of a benchmark as bars."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from ptm_lightning.files import atomic


def named_ratios(results: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[float]]]:
    """What stands under the key "ratios" at any depth, a list or lists by name, named by the keys on the way."""
    for key, value in results.items():
        if key == "ratios":
            by_name = value if isinstance(value, Mapping) else {"": value}
            yield from ((", ".join(filter(None, (*path, name))), list(ratios)) for name, ratios in by_name.items())
        elif isinstance(value, Mapping):
            yield from named_ratios(value, (*path, key))


def draw(results: Mapping[str, Any], file: Path) -> None:
    """Writes a PNG: the median of each ratio as a bar from 1, and a line from the least to the most."""
    names, ratios = zip(*named_ratios(results), strict=True)
    middles = [median(each) for each in ratios]
    reach = [[middle - min(each) for middle, each in zip(middles, ratios, strict=True)]]
    reach += [[max(each) - middle for middle, each in zip(middles, ratios, strict=True)]]
    canvas = Figure(figsize=(9, 1 + 0.3 * len(names)), dpi=120, layout="constrained")
    axes = canvas.subplots()
    axes.barh(names, [middle - 1 for middle in middles], left=1, xerr=reach, color="tab:blue", ecolor="gray")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast")
    atomic(file, lambda stream: canvas.savefig(stream, format="png"))
