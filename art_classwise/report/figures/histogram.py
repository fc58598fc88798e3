"""How many classes are how robust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from art_classwise.report.figures._style import ROBUST, canvas, check_class_table, headline, label, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_histogram"]


def class_histogram(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw how many classes lie in each interval of robust accuracy, ten points wide.

    Args:
        table: A row per class: ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    measured = check_class_table(table)
    ax = canvas(ax, 5.6, 3.6)
    interval = np.minimum((measured["robust"].to_numpy() * 10).round(9).astype(int), 9)
    ax.bar(np.arange(10) * 10, np.bincount(interval, minlength=10), width=10, align="edge", color=ROBUST, ec="white")
    percent_axis(ax, "x", "robust accuracy (%)")
    ax.set_ylabel("classes")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    headline(ax, title, f"worst: {label(measured.index[0])}, {100 * measured['robust'].iloc[0]:.1f} %")
    return ax
