"""Classes by attacks, as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from art_classwise.errors import InputError
from art_classwise.report.figures._cells import draw_cells, name_columns
from art_classwise.report.figures._style import (
    MOST_CLASSES,
    canvas,
    check_table,
    class_axis,
    headline,
    label,
    row_height,
    weakest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_by_attack"]


def class_by_attack(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's accuracy without attack, under each attack and under all of them, as a heat map.

    The class that is weakest in the last column is on top. Of more than 40 classes the 40 weakest are drawn.

    Args:
        table: A row per class, a column per attack, fractions: ``result.by_attack(model)``.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    call = "result.by_attack(model)"
    values = check_table(table, ["clean"], call)
    if "robust" in values or not all(pd.api.types.is_float_dtype(d) for d in values.dtypes):
        raise InputError(f"The table must hold a column per attack, as {call} returns it.")
    last = values.columns[-1]
    measured = values.dropna(how="all").sort_values(last, kind="stable", na_position="last")
    if len(measured) == 0:
        raise InputError("There is nothing to draw: no class has an example.")
    shown = measured.head(MOST_CLASSES)
    percent = shown.to_numpy() * 100
    ax = canvas(ax, 2.6 + 0.72 * percent.shape[1], row_height(len(shown)))
    draw_cells(ax, percent, "cividis")
    worst = percent[:, -1] == percent[0, -1]
    class_axis(ax, list(shown.index), worst)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    name_columns(ax, list(shown.columns))
    ax.set(ylabel=weakest(len(shown), len(measured)), xlabel="accuracy (%) without attack, and under each")
    of = (
        label(shown.index[0])
        if worst.sum() == 1
        else f"{int((measured[last] == measured[last].iloc[0]).sum())} classes"
    )
    headline(ax, title, f"worst under {label(last)}: {of}, {percent[0, -1]:.1f} %")
    return ax
