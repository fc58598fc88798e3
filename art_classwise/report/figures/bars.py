"""Bars: class accuracies of one model and of several, and how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.errors import InputError
from art_classwise.report.figures._labels import (
    caption,
    chance,
    check_class_table,
    fit_all,
    name_room,
    widest,
    worst_classes,
)
from art_classwise.report.figures._style import (
    CLEAN,
    MOST_CLASSES,
    ROBUST,
    WORST,
    canvas,
    class_axis,
    draw_mean,
    percent_axis,
    points,
    row_height,
    row_room,
    weakest,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from art_classwise.audit.result import AuditResult

__all__ = ["class_accuracy", "class_histogram", "models_by_class"]


def class_accuracy(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy as a bar with its interval, and its clean accuracy as a tick.

    The worst class is on top, in another colour. Of more than 40 classes, or of more than
    ``ax`` has room for, the worst are drawn; the mean is of all.

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
    shown = measured.head(row_room(ax, MOST_CLASSES))
    names = fit_all(shown.index, name_room(ax))
    left = widest(names)
    ax = canvas(ax, 5, row_height(len(shown)), left)
    position = np.arange(len(shown))
    robust = shown["robust"].to_numpy() * 100
    is_worst = robust == robust[0]  # several, where they tie
    bars = ax.barh(position, robust, color=np.where(is_worst, WORST, ROBUST), height=0.72)
    ax.hlines(position, shown["low"] * 100, shown["high"] * 100, color="black", lw=1.2)
    clean = ax.scatter(shown["clean"] * 100, position, marker="|", s=120, color=CLEAN, lw=2.5, zorder=3, clip_on=False)
    class_axis(ax, names, is_worst)
    percent_axis(ax, "x", "accuracy (%)")
    ax.set_ylabel(weakest(len(shown), len(measured)))
    mean = float(measured["robust"].mean() * 100)
    entries: dict[str, Artist] = {
        "clean": clean,
        "robust, with 95 % interval": bars[-1],
        "robust, worst class": bars[0],
        f"mean robust, {mean:.1f} %": draw_mean(ax, "x", mean),
    }
    if is_worst.all():
        del entries["robust, with 95 % interval"]
    caption(ax, title, worst_classes(measured["robust"]), chance(measured), legend=entries, left=left)
    return ax


def models_by_class(result: AuditResult, models: Sequence[str] | None = None, attack: str = WORST_CASE) -> Figure:
    """Draw :func:`class_accuracy` for models of an audit side by side, on one scale.

    Args:
        result: The audit.
        models: Which models; all if absent.
        attack: The attack to draw.

    Returns:
        A figure of its own, not known to pyplot.

    Raises:
        InputError: The audit has no such model or attack, or no model is named.
    """
    from matplotlib import pyplot

    # It loads a notebook's backend: before that, no figure is shown at the end of a cell.
    pyplot.draw_if_interactive()  # type: ignore[no-untyped-call]
    drawn = result.models if models is None else tuple(models)
    if not drawn or isinstance(models, str):
        raise InputError(f"`models` must be names of models, such as [{result.models[0]!r}], but got {models!r}.")
    tables = [result.class_table(model, attack) for model in drawn]
    n_classes = min(len(result.classes), MOST_CLASSES)
    columns = min(len(drawn), 2)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(5.6 * columns, row_height(n_classes) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for model, table, ax in zip(drawn, tables, axes.flat, strict=False):
        class_accuracy(table, ax, title=model)
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    return figure


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
