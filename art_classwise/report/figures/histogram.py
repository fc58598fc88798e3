"""How many classes are how robust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from art_classwise.report.figures._checks import chance, check_class_table, worst_classes
from art_classwise.report.figures._heading import caption
from art_classwise.report.figures._style import ROBUST, WORST, canvas, draw_mean, percent_axis, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_histogram"]

_INTERVALS = 10
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def class_histogram(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw how many classes lie in each interval of robust accuracy, ten points wide.

    An accuracy that is the end of two intervals counts in the upper one, 100 % in the last. Each accuracy is an
    estimate: chance spreads the classes further than they lie apart, by what the figure says.

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
    robust = measured["robust"].to_numpy()
    ax = canvas(ax, 5.6, 3.8)
    # Rounded: 0.3 * 10 must not be a little less than 3.
    interval = np.minimum((robust * _INTERVALS).round(9).astype(np.int64), _INTERVALS - 1)
    counts = np.bincount(interval, minlength=_INTERVALS)
    width = 100 // _INTERVALS
    colours = [WORST if i == interval[0] else ROBUST for i in range(_INTERVALS)]
    bars = ax.bar(
        np.arange(_INTERVALS) * width, counts, width=width, align="edge", color=colours, edgecolor="white", lw=1.5
    )
    ax.bar_label(bars, [f"{c:,}" if c else "" for c in counts], fontsize=points(0.86), padding=2, bbox=_WHITE)
    percent_axis(ax, "x", "robust accuracy (%)")
    ax.set_xticks(np.arange(_INTERVALS + 1) * width)
    ax.set(ylabel="number of classes", ylim=(0, 1.12 * counts.max()))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    mean = 100 * float(robust.mean())
    half = 50 * float((measured["high"] - measured["low"]).median())
    caption(
        ax,
        title,
        worst_classes(measured["robust"]),
        chance(measured) or f"95 % interval of a class: ± {half:.0f} points (median)",
        legend={"holds the worst class": bars[int(interval[0])], f"mean, {mean:.1f} %": draw_mean(ax, "x", mean)},
    )
    return ax
