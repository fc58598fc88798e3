"""The accuracy of each class, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.report.figures._style import (
    CLEAN,
    MOST_CLASSES,
    ROBUST,
    WORST,
    canvas,
    check_class_table,
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

    from art_classwise.audit.result import AuditResult

__all__ = ["class_accuracy", "models_by_class"]


def class_accuracy(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy as a bar with its interval, and its clean accuracy as a tick.

    The worst class is on top, in another colour. Of more than 40 classes the 40 worst are drawn.

    Args:
        table: A row per class: ``n``, ``clean``, ``robust``, ``low``, ``high``; e.g.
            ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    measured = check_class_table(table)
    shown = measured.head(MOST_CLASSES)
    ax = canvas(ax, 6, row_height(len(shown)))
    position = np.arange(len(shown))
    robust = shown["robust"].to_numpy() * 100
    is_worst = robust == robust[0]  # several, where they tie
    bars = ax.barh(position, robust, color=np.where(is_worst, WORST, ROBUST), height=0.72)
    ax.hlines(position, shown["low"] * 100, shown["high"] * 100, color="black", lw=1.2)
    clean = ax.scatter(shown["clean"] * 100, position, marker="|", s=120, color=CLEAN, lw=2.5, zorder=3, clip_on=False)
    class_axis(ax, list(shown.index), is_worst)
    percent_axis(ax, "x", "accuracy (%)")
    ax.set_ylabel(weakest(len(shown), len(measured)))
    mean = float(measured["robust"].mean() * 100)
    line = ax.axvline(mean, color="0.35", lw=1, ls=(0, (4, 3)), zorder=0)
    entries = {
        "clean": clean,
        "robust, with 95 % interval": bars[-1],
        "robust, worst class": bars[0],
        f"mean robust, {mean:.1f} %": line,
    }
    if is_worst.all():
        del entries["robust, with 95 % interval"]
    legend_below(ax, entries)
    ties = int((measured["robust"] == measured["robust"].iloc[0]).sum())
    worst = label(shown.index[0]) if ties == 1 else f"{ties} classes"
    gap = 100 * float(measured["robust"].iloc[-1] - measured["robust"].iloc[0])
    headline(ax, title, f"worst: {worst}, {robust[0]:.1f} %; {gap:.1f} points below the best")
    return ax


def models_by_class(result: AuditResult, models: Sequence[str] | None = None, attack: str = WORST_CASE) -> Figure:
    """Draw :func:`class_accuracy` for models of an audit side by side, on one scale.

    Args:
        result: The audit.
        models: Which models; all if absent.
        attack: The attack to draw.

    Returns:
        A figure of its own, not known to pyplot.
    """
    drawn = result.models if models is None else tuple(models)
    n_classes = min(len(result.classes), MOST_CLASSES)
    columns = min(len(drawn), 2)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(5.2 * columns, row_height(n_classes) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for model, ax in zip(drawn, axes.flat, strict=False):
        class_accuracy(result.class_table(model, attack), ax, title=model)
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    return figure
