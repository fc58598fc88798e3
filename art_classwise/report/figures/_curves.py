"""Curves of classes, with the gap between the best and the worst shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from art_classwise.report.figures._heading import caption
from art_classwise.report.figures._names import fit_all, name_room, side_labels, widest
from art_classwise.report.figures._style import BEST, MEAN, OTHER, WORST, canvas, percent_axis, points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["draw_curves", "spread"]

_MOST, _SPREAD = 20, 12


def spread(ranking: pd.Index) -> pd.Index:
    """Return which classes to draw: all up to 20, else 12 from the worst to the best, evenly spread."""
    if len(ranking) <= _MOST:
        return ranking
    return ranking[np.linspace(0, len(ranking) - 1, _SPREAD).round().astype(np.int64)]


def draw_curves(
    ax: Axes | None,
    curves: pd.DataFrame,
    ranking: pd.Index,
    *,
    title: str,
    findings: Sequence[str],
    xlabel: str,
) -> Axes:
    """Draw a curve per class in percent, the worst and the best in colour, their mean, and the gap of all as a band.

    Args:
        ax: Where to draw; a new figure if absent.
        curves: A row per x, a column per class.
        ranking: The classes, the worst first.
        title: Above the axes.
        findings: Under the title.
        xlabel: Of the x axis.

    Returns:
        The axes.
    """
    x = curves.index.to_numpy(dtype=np.float64)
    shown = spread(ranking)
    first = [*dict.fromkeys([ranking[0], ranking[-1], *shown])]
    names = fit_all(first, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.6, 4.4, right)
    band = ax.fill_between(x, curves.min(axis=1), curves.max(axis=1), color="0.91", lw=0, zorder=0)
    marker = "o" if len(x) <= 10 else ""
    colours = dict.fromkeys(shown, OTHER) | {ranking[-1]: BEST, ranking[0]: WORST}
    for name in shown:
        curve, special = curves[name].dropna(), colours[name] != OTHER
        style: dict[str, Any] = {
            "lw": 2.2 if special else 0.9,
            "zorder": 3 if special else 2,
            "marker": marker,
            "ms": 4,
        }
        # In grey the two are told apart by the dashes, and by the label at the end.
        ax.plot(curve.index, curve, color=colours[name], ls="--" if name == ranking[-1] else "-", **style)
    (mean,) = ax.plot(x, curves.mean(axis=1), color=MEAN, lw=1.4, ls=":", zorder=2.5)
    percent_axis(ax, "y", "robust accuracy (%)")
    if len(x) > 1:
        ax.set_xlim(x[0], x[-1])
    ends = curves[shown].ffill().iloc[-1]
    side_labels(
        ax,
        np.full(len(first), x[-1]),
        ends[first].to_numpy(dtype=np.float64),
        names,
        [colours[name] for name in first],
    )
    entries: dict[str, Artist] = {"mean over classes": mean}
    if len(shown) < len(ranking):
        entries[f"{len(shown)} of {len(ranking):,} classes"] = Line2D([], [], color=OTHER, lw=0.9)
    entries["from the worst to the best"] = band
    ax.set_xlabel(xlabel)
    caption(ax, title, *findings, legend=entries, right=right)
    return ax
