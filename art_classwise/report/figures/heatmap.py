"""Classes by attacks, as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.report.figures._cells import draw_cells, name_columns
from art_classwise.report.figures._checks import check_table, some, worst_classes
from art_classwise.report.figures._style import (
    MOST_CLASSES,
    canvas,
    class_axis,
    headline,
    label,
    row_height,
    weakest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_by_attack"]

_CALL = "result.by_attack(model)"


def class_by_attack(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's accuracy without attack, under each attack and under all of them, as a heat map.

    The class that is weakest in the last column is on top; the last row is the mean over all classes. Of more than 40
    classes the 40 weakest are drawn. Dark is weak.

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
    shown = measured.head(MOST_CLASSES)
    percent = 100 * np.vstack([shown.to_numpy(), measured.mean().to_numpy()])
    rows, columns = percent.shape
    ax = canvas(ax, 2.8 + 0.75 * columns, row_height(rows))
    draw_cells(ax, percent, mpl.colormaps["cividis"](np.nan_to_num(percent) / 100))
    worst = np.append(percent[:-1, -1] == percent[0, -1], False)
    class_axis(ax, [*(label(name) for name in shown.index), "mean"], worst)
    name_columns(ax, [label(name) for name in table.columns])
    ax.set_ylim(rows - 0.5, -0.5)
    # What is no class, and what is no single attack, stands apart.
    ax.axhline(rows - 1.5, color="white", lw=4)
    for edge in {0.5, columns - 1.5}:
        ax.axvline(edge, color="white", lw=4)
    ax.set(xlabel="accuracy (%): without attack, and under each", ylabel=weakest(len(shown), len(measured)))
    known = measured[last].dropna()
    headline(ax, title, f"under {label(last)}, {worst_classes(known)}" if len(known) else "")
    return ax
