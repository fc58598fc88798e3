"""What becomes robust once a class is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.report.figures._style import (
    OTHER,
    ROBUST,
    canvas,
    check_table,
    class_axis,
    headline,
    label,
    legend_below,
    percent_axis,
    row_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["homing"]

_MOST_ROWS = 30


def homing(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw which share of the examples that were moved into a class withstands once that class is excluded.

    Before, none of them did; beside it stands the share that withstands without an unrelated class, the control.

    Args:
        table: ``study_result.homing()``, or ``study_result.homing(pooled=True)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or has no row.
    """
    pooled = isinstance(table, pd.DataFrame) and table.index.nlevels == 1
    columns = ["n", "homed", "low", "high", "control_homed", "control_low", "control_high"]
    rows = check_table(table, columns, "ExclusionResult.homing()", levels=1 if pooled else 2)
    if len(rows) == 0:
        raise InputError("There is nothing to draw: no example was moved into an excluded class.")
    shown = rows.sort_values("n", ascending=False, kind="stable").head(_MOST_ROWS)
    ax = canvas(ax, 6.4, row_height(len(shown)))
    position = np.arange(len(shown))
    ax.hlines(position - 0.14, 100 * shown["low"], 100 * shown["high"], color=ROBUST, lw=1.2)
    homed = ax.scatter(100 * shown["homed"], position - 0.14, color=ROBUST, zorder=3)
    ax.hlines(position + 0.14, 100 * shown["control_low"], 100 * shown["control_high"], color=OTHER, lw=1.2)
    control = ax.scatter(100 * shown["control_homed"], position + 0.14, fc="white", ec=OTHER, zorder=3)
    names = [label(key) if pooled else f"{label(key[0], 18)} → {label(key[1], 18)}" for key in shown.index]
    class_axis(ax, names)
    percent_axis(ax, "x", "withstand after the exclusion (%)")
    ax.set_ylabel("excluded class" if pooled else "true class → class excluded")
    legend_below(ax, {"without the class": homed, "without the control": control})
    headline(ax, title)
    return ax
