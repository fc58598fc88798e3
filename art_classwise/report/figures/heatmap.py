"""Classes by attacks, as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.report.figures._cells import column_names, draw_cells
from art_classwise.report.figures._checks import check_table, some, worst_classes
from art_classwise.report.figures._heading import caption
from art_classwise.report.figures._names import fit_all, label, name_room, widest
from art_classwise.report.figures._style import MOST_CLASSES, canvas, class_axis, row_height, row_room, weakest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_by_attack"]

_CELL = 0.85
"""The width of a column in inches."""
_CALL = "result.by_attack(model)"


def class_by_attack(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's accuracy without attack, under each attack and under all of them, as a heat map.

    The class that is weakest in the last column is on top; the last row is the mean over all classes. Of more than 40
    classes, or of more than ``ax`` has room for, the weakest are drawn. Dark is weak.

    Args:
        table: A row per class, a column per attack, fractions: ``result.by_attack(model)``.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    values = check_table(table, ["clean"], _CALL)
    strange = [str(c) for c, kind in values.dtypes.items() if not pd.api.types.is_float_dtype(kind)]
    if strange or "robust" in values or len(values.columns) < 2:
        raise InputError(f"The table must hold an accuracy in each column: give one as {_CALL} returns it.")
    last = values.columns[-1]
    measured = some(values.dropna(how="all")).sort_values(last, kind="stable", na_position="last")
    shown = measured.head(max(row_room(ax, MOST_CLASSES + 1) - 1, 1))
    percent = 100 * np.vstack([shown.to_numpy(), measured.mean().to_numpy()])
    rows, columns = percent.shape
    names = [*fit_all(shown.index, name_room(ax)), "mean"]
    left = widest(names)
    heads = column_names(ax, table.columns, _CELL, left)
    ax = canvas(ax, 0.8 + _CELL * columns, row_height(rows) - 0.2 + heads.height / 72, left)
    draw_cells(ax, left, percent, mpl.colormaps["cividis"](np.nan_to_num(percent) / 100))
    worst = np.append(percent[:-1, -1] == percent[0, -1], False)
    class_axis(ax, names, worst)
    heads.write(ax)
    ax.set_ylim(rows - 0.5, -0.5)
    # What is no class, and what is no single attack, stands apart.
    ax.axhline(rows - 1.5, color="white", lw=4)
    for edge in {0.5, columns - 1.5}:
        ax.axvline(edge, color="white", lw=4)
    ax.set(xlabel="accuracy (%): without attack, and under each", ylabel=weakest(len(shown), len(measured)))
    known = measured[last].dropna()
    caption(ax, title, f"under {label(last)}, {worst_classes(known)}" if len(known) else "", left=left)
    return ax
