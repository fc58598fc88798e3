"""Two models, or two attacks, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from art_classwise.audit.compare import Comparison
from art_classwise.errors import InputError
from art_classwise.report.figures._style import (
    MOST_CLASSES,
    ROBUST,
    canvas,
    class_axis,
    headline,
    label,
    legend_below,
    percent_axis,
    row_height,
    weakest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["compared"]


def compared(comparison: Comparison, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the accuracies of two models, or under two attacks, class by class, with the interval of their difference.

    Args:
        comparison: ``result.compare(first, second)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is no comparison.
    """
    if not isinstance(comparison, Comparison):
        raise InputError(f"Give a comparison, result.compare(first, second), but got {comparison!r:.60}.")
    table = comparison.by_class[comparison.by_class["n"] > 0]
    lowest = table[["first", "second"]].min(axis=1).sort_values(kind="stable")
    shown = table.loc[lowest.index].head(MOST_CLASSES)
    ax = canvas(ax, 6.4, row_height(len(shown)))
    position = np.arange(len(shown))
    one, other = 100 * shown["first"], 100 * shown["second"]
    ax.hlines(position, one, other, color="0.75", lw=3)
    ax.hlines(position, other + 100 * shown["low"], other + 100 * shown["high"], color="black", lw=1)
    first = ax.scatter(one, position, color=ROBUST, zorder=3)
    second = ax.scatter(other, position, fc="white", ec="black", zorder=3)
    class_axis(ax, list(shown.index))
    percent_axis(ax, "x", f"{comparison.kind} accuracy (%)")
    ax.set_ylabel(weakest(len(shown), len(table)))
    legend_below(ax, {label(comparison.first): first, label(comparison.second): second})
    headline(ax, title)
    return ax
