"""Matrices of percentages, as cells of colour with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from art_classwise.report.figures._style import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cells", "name_columns"]


def draw_cells(ax: Axes, percent: npt.NDArray[np.float64], colours: str) -> None:
    """Draw a matrix of percentages, row 0 on top."""
    rows, columns = percent.shape
    shades = mpl.colormaps[colours](np.nan_to_num(percent) / 100)
    shades[np.isnan(percent)] = (0.92, 0.92, 0.92, 1)
    ax.pcolormesh(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, shades, edgecolors="white", lw=0.8)
    for i, j in np.ndindex(rows, columns):
        light = shades[i, j, :3] @ (0.299, 0.587, 0.114) > 0.55
        text = "–" if np.isnan(percent[i, j]) else f"{percent[i, j]:.0f}"
        ax.text(j, i, text, ha="center", va="center", fontsize="small", color="black" if light else "white")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def name_columns(ax: Axes, names: Sequence[object]) -> None:
    """Name the columns 0, 1, ... of the x axis, upright where they don't fit side by side."""
    texts = [label(name) for name in names]
    ax.set_xticks(np.arange(len(names)), texts, rotation=90 if max(map(len, texts)) > 8 else 0)
    ax.set_xlim(-0.5, len(names) - 0.5)
