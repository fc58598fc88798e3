"""Matrices of percentages, as cells of colour with their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from art_classwise.report.figures._names import SMALL, fit_all, fold, name_room, text_width, widest
from art_classwise.report.figures._style import points, slot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ColumnNames", "column_names", "draw_cells"]

_ABSENT = (0.93, 0.93, 0.93, 1.0)


def draw_cells(
    ax: Axes, left: float, percent: npt.NDArray[np.float64], shades: npt.NDArray[np.float64], *, zeros: bool = True
) -> None:
    """Draw a matrix of percentages, row 0 on top, with the numbers where there is room.

    Args:
        ax: The axes.
        left: The width of the names beside them, in points.
        percent: (rows, columns); NaN is drawn as a dash on grey.
        shades: (rows, columns, 4), the colours.
        zeros: Whether to write a number that rounds to 0.
    """
    rows, columns = percent.shape
    shades = shades.copy()
    shades[np.isnan(percent)] = _ABSENT
    ax.pcolormesh(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, shades, edgecolors="white", lw=0.8)
    width, height = slot(ax, left)
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


@dataclass(frozen=True)
class ColumnNames:
    """Names under the columns of a matrix.

    Attributes:
        texts: On one line each, or a word on each line.
        upright: Whether they stand on their side, for lack of room.
        height: What they need, in points.
    """

    texts: tuple[str, ...]
    upright: bool
    height: float

    def write(self, ax: Axes) -> None:
        """Name the columns 0, 1, ... of the x axis."""
        at = np.arange(len(self.texts))
        ax.set_xticks(at, self.texts, rotation=90 if self.upright else 0, fontsize=points(SMALL))


def column_names(ax: Axes | None, names: Iterable[object], inches: float, left: float) -> ColumnNames:
    """Return how to name columns: a word on each line, or upright where these don't fit.

    Args:
        ax: Where they will stand; new axes if absent.
        names: The names.
        inches: The width of a column in new axes.
        left: The width of the names beside the axes, in points.
    """
    texts = fit_all(names, name_room(None, 11))
    room = points(7.2 * inches) if ax is None else slot(ax, left)[0] / len(texts)
    room -= points(0.4)
    folded = [fold(text, room, after=" -") for text in texts]
    if max(text_width(line, bold=False) for lines in folded for line in lines) <= room:
        return ColumnNames(tuple(map("\n".join, folded)), False, points(1.2 * SMALL) * max(map(len, folded)))
    return ColumnNames(tuple(texts), True, widest(texts))
