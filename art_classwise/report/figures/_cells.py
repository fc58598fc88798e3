"""Matrices of percentages, as cells of colour with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len

from art_classwise.report.figures._style import points, slot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cells", "name_columns"]

_ABSENT = (0.93, 0.93, 0.93, 1.0)


def draw_cells(
    ax: Axes, percent: npt.NDArray[np.float64], shades: npt.NDArray[np.float64], *, zeros: bool = True
) -> None:
    """Draw a matrix of percentages, row 0 on top, with the numbers where there is room.

    Args:
        ax: The axes.
        percent: (rows, columns); NaN is drawn as a dash on grey.
        shades: (rows, columns, 4), the colours.
        zeros: Whether to write a number that rounds to 0.
    """
    rows, columns = percent.shape
    shades = shades.copy()
    shades[np.isnan(percent)] = _ABSENT
    ax.pcolormesh(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, shades, edgecolors="white", lw=0.8)
    width, height = slot(ax)
    size = min(points(0.86), 0.45 * width / columns, 0.8 * height / rows)
    for i, j in np.ndindex(rows, columns):
        unknown = np.isnan(percent[i, j])
        if size < 4 or (not zeros and not unknown and percent[i, j] < 0.5):
            continue
        light = shades[i, j, :3] @ (0.299, 0.587, 0.114) > 0.55
        text = "–" if unknown else f"{percent[i, j]:.0f}"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color="black" if light else "white")
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Name the columns 0, 1, ... of the x axis: on lines, a word each, or upright where that doesn't fit."""
    size = points(0.9)
    room = slot(ax)[0] / len(names) / (0.62 * size)  # in letters
    folded = [name.replace(" ", "\n") for name in names]
    fits = max(cell_len(line) for name in folded for line in name.split("\n")) <= room
    ax.set_xticks(np.arange(len(names)), folded if fits else names, rotation=0 if fits else 90, fontsize=size)
