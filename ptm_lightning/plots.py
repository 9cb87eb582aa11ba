"""Figures as PNG files, on any machine: matplotlib draws into memory, and is imported for the first one."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ptm_lightning.figures import Curves, Figure, Matrix
from ptm_lightning.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 12
"""The most rows of a matrix whose cells show their counts."""
NAMED = 40
"""The most rows of a matrix that show their names."""


def draw(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, whole or not at all.

    Args:
        figure: What is to be seen.
        path: The file; its folder is made if need be.
    """
    from matplotlib.figure import Figure as Canvas

    size = 4.5 + (0.25 * min(NAMED, len(figure.counts)) if isinstance(figure, Matrix) else 0)
    canvas = Canvas(figsize=(size + 1, size), dpi=120, layout="constrained")
    axes = canvas.subplots()
    axes.set_title(figure.title)
    if isinstance(figure, Matrix):
        _draw_matrix(axes, figure)
    else:
        _draw_curves(axes, figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names in any script
        atomic(path, lambda file: canvas.savefig(file, format="png"))


def _draw_matrix(axes: "Axes", figure: Matrix) -> None:
    """Shades are shares of a row, so that rare rows are seen."""
    shares = [[count / max(1, sum(row)) for count in row] for row in figure.counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    (row_title, row_names), (column_title, column_names) = figure.rows, figure.columns
    axes.set_ylabel(row_title)
    axes.set_xlabel(column_title)
    if len(row_names) <= NAMED:
        axes.set_yticks(range(len(row_names)), row_names, parse_math=False)
        axes.set_xticks(range(len(column_names)), column_names, rotation=90, parse_math=False)
    if len(row_names) <= NUMBERED:
        for i, row in enumerate(figure.counts):
            for j, count in enumerate(row):
                axes.text(
                    j, i, f"{count:,}", ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black"
                )


def _draw_curves(axes: "Axes", figure: Curves) -> None:
    for name, (numbers, values) in figure.lines.items():
        axes.plot(numbers, values, label=name, marker="o" if len(numbers) <= 20 else None)
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    axes.grid(alpha=0.3)
    if len(figure.lines) > 1:
        axes.legend()
