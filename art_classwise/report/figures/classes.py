"""Accuracy by class: of one model and of several, distributed, compared, and once a class is excluded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison
from art_classwise.errors import InputError
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import (
    CLEAN,
    MEAN,
    MOST_CLASSES,
    OTHER,
    ROBUST,
    SMALL,
    WORST,
    accuracy_of,
    canvas,
    caption,
    chance,
    check_class_table,
    check_table,
    class_axis,
    draw_mean,
    fit,
    fit_all,
    fit_pairs,
    fold,
    in_order,
    legend_room,
    name_room,
    percent_axis,
    points,
    row_height,
    row_room,
    some,
    text_width,
    weakest,
    widest,
    worst_classes,
)
from art_classwise.report.tables import difference, weakest_first

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from art_classwise.audit.result import AuditResult

__all__ = ["class_accuracy", "class_histogram", "compared", "homing", "models_by_class"]


@in_any_script
def class_accuracy(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "", order: Sequence[str] | None = None
) -> Axes:
    """Draw each class's robust accuracy as a bar with its interval, and its clean accuracy as a tick.

    The worst class is on top, in another colour. Of more than 40 classes, or of more than
    ``ax`` has room for, the worst are drawn; the mean is of all.

    Args:
        table: A row per class: ``n``, ``clean``, ``robust``, ``robust_low``, ``robust_high``; e.g.
            ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.
        order: Names of classes from top to bottom, to compare several figures; the worst first if absent.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, no class has an example, or the order names none of them.
    """
    measured = check_class_table(table)
    shown = in_order(table, measured, order).head(row_room(ax, MOST_CLASSES))
    names = fit_all(shown.index, name_room(ax))
    left = widest(names)
    ax = canvas(ax, 5, row_height(len(shown)), left)
    position = np.arange(len(shown))
    robust = shown["robust"].to_numpy() * 100
    is_worst = robust == 100 * measured["robust"].iloc[0]  # several, where they tie
    ax.barh(position, robust, color=np.where(is_worst, WORST, ROBUST), height=0.72)
    ax.hlines(position, shown["robust_low"] * 100, shown["robust_high"] * 100, color="black", lw=1.2)
    clean = ax.scatter(shown["clean"] * 100, position, marker="|", s=120, color=CLEAN, lw=2.5, zorder=3, clip_on=False)
    class_axis(ax, names, is_worst)
    percent_axis(ax, "x", accuracy_of(table, "accuracy"))
    ax.set_ylabel(weakest(len(shown), len(measured), order))
    mean = float(measured["robust"].mean() * 100)
    entries: dict[str, Artist] = {
        "clean": clean,
        "robust, with 95 % interval": Patch(facecolor=ROBUST),
        "robust, worst class": Patch(facecolor=WORST),
        f"mean robust, {mean:.1f} %": draw_mean(ax, "x", mean),
    }
    if is_worst.all():
        del entries["robust, with 95 % interval"]
    if not is_worst.any():
        del entries["robust, worst class"]
    caption(ax, title, worst_classes(measured["robust"]), chance(measured), legend=entries, left=left)
    return ax


@in_any_script
def models_by_class(result: AuditResult, models: Sequence[str] | None = None, attack: str = WORST_CASE) -> Figure:
    """Draw :func:`class_accuracy` for models of an audit side by side, on one scale and with the classes in one order.

    The class that is weakest on average over the models is on top of each.

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
    names = result.models if models is None else tuple(models)
    if not names or isinstance(models, str):
        raise InputError(f"`models` must be names of models, such as [{result.models[0]!r}], but got {models!r}.")
    tables = [result.class_table(model, attack) for model in names]
    order = weakest_first(tables)[:MOST_CLASSES]
    n_classes = min(len(result.classes), MOST_CLASSES)
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.6 * columns, row_height(n_classes) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for model, table, ax in zip(names, tables, axes.flat, strict=False):
        class_accuracy(table, ax, title=model, order=order)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    return figure


_INTERVALS = 10
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


@in_any_script
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
    percent_axis(ax, "x", accuracy_of(table))
    ax.set_xticks(np.arange(_INTERVALS + 1) * width)
    ax.set(ylabel="number of classes", ylim=(0, 1.12 * counts.max()))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    mean = 100 * float(robust.mean())
    half = 50 * float((measured["robust_high"] - measured["robust_low"]).median())
    caption(
        ax,
        title,
        worst_classes(measured["robust"]),
        chance(measured) or f"95 % interval of a class: ± {half:.0f} points (median)",
        legend={"holds the worst class": bars[int(interval[0])], f"mean, {mean:.1f} %": draw_mean(ax, "x", mean)},
    )
    return ax


_SHORTEST = 3.5  # in letters' heights: less of a name tells nothing
_MOST_ROWS = 30


@in_any_script
def homing(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw which share of the examples that were moved into a class withstands once that class is excluded.

    Before, none of them did: all had been moved. Beside it stands the share of the same examples that withstands once
    an unrelated class, the control, is excluded instead: what training anew does by itself. A filled dot is beyond the
    control (the paired 95 % interval of the difference, for its row alone, excludes 0), a hollow one isn't; where no
    row has a control, all are filled. Of more than 30 rows, or of more than ``ax`` has room for, those of the most
    examples are drawn; in brackets, how many. After Tian et al. 2021 (arXiv 2105.14240), section 4.

    Args:
        table: ``ExclusionResult.homing()``, or ``ExclusionResult.homing(pooled=True)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or has no row.
    """
    pooled = isinstance(table, pd.DataFrame) and table.index.nlevels == 1
    columns = ["n", "homed", "low", "high", "control_homed", "control_low", "control_high", "difference_low"]
    rows = check_table(table, columns, "ExclusionResult.homing()", levels=1 if pooled else 2)
    some(rows, "no example was moved into an excluded class")
    shown = rows.sort_values("n", ascending=False, kind="stable").head(row_room(ax, _MOST_ROWS))
    numbers = 100 * shown[columns[1:]].astype(np.float64)
    sizes = [f" ({n:,})" for n in shown["n"]]
    room = name_room(ax, 14 if pooled else 20) - widest(sizes)
    of = fit_all(shown.index, room) if pooled else fit_pairs(shown.index, room)
    names = [name + size for name, size in zip(of, sizes, strict=True)]
    left = widest(names)
    ax = canvas(ax, 5.2, row_height(len(shown)), left)
    position = np.arange(len(shown))
    alone = bool(rows["control_homed"].isna().all())
    beyond = alone | (numbers["difference_low"] > 0).to_numpy()
    ax.hlines(position, 0, numbers["homed"], color="0.88", lw=5, zorder=1)
    ax.hlines(position - 0.13, numbers["low"], numbers["high"], color=ROBUST, lw=1.4)
    ax.hlines(position + 0.17, numbers["control_low"], numbers["control_high"], color=MEAN, lw=1)
    dots: dict[str, Any] = {"s": 42, "edgecolor": ROBUST, "lw": 1.4, "zorder": 4, "clip_on": False}
    homed = ax.scatter([], [], facecolor=ROBUST, **dots)
    ax.scatter(numbers["homed"], position - 0.13, facecolor=np.where(beyond, ROBUST, "white"), **dots)
    control = ax.scatter(
        numbers["control_homed"], position + 0.17, marker="|", s=70, color=MEAN, lw=2, zorder=3, clip_on=False
    )
    class_axis(ax, names)
    percent_axis(ax, "x", "of the examples moved, withstand afterwards (%)")
    what = ("class" if pooled else "pair", "classes" if pooled else "pairs")
    few = len(shown) < len(rows)
    ax.set_ylabel(f"the {len(shown)} most frequent of {len(rows):,} {what[1]}" if few else f"{what[0]} (examples)")
    filled = {"without the class (filled: beyond the control)": homed, "without an unrelated class": control}
    caption(ax, title, *_homing_findings(rows), legend={"without the class": homed} if alone else filled, left=left)
    return ax


def _homing_findings(rows: pd.DataFrame) -> list[str]:
    """Say which share withstands before and after, of the examples that have a control if any has one."""
    controlled = rows[rows["control_homed"].notna()]
    counted = controlled if len(controlled) else rows
    after, control = (
        100 * np.average(counted[c].to_numpy(np.float64), weights=counted["n"].to_numpy(np.float64))
        for c in ("homed", "control_homed")
    )
    beside = f", the control {control:.0f} %" if len(controlled) else "; there is no control"
    number = f"{counted['n'].sum():,}" + (f" of the {rows['n'].sum():,}" if len(counted) < len(rows) else "")
    return [
        f"withstand: before 0 %, without the class {after:.0f} %{beside}",
        f"of {number} examples moved into an excluded class",
    ]


_ALPHA = 0.05


@in_any_script
def compared(
    comparison: Comparison, ax: Axes | None = None, *, title: str = "", order: Sequence[str] | None = None
) -> Axes:
    """Draw the accuracies of two models, or under two attacks, class by class, with the interval of their difference.

    The second is a hollow dot, the first a filled one. The bar around the first is the paired interval of their
    difference, laid off from the second: where it doesn't reach the hollow dot, the interval excludes 0. A star, and
    colour, is where the difference is significant at 5 % with all classes looked at (``p_adjusted``). On top stand the
    mean over classes and the worst class, each one's own; then the classes, the weakest first, of more than 40, or of
    more than ``ax`` has room for, the weakest.

    Args:
        comparison: ``result.compare(first, second)``, or :func:`art_classwise.compare`.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.
        order: Names of classes from top to bottom, to compare several figures; the weakest first if absent.

    Returns:
        The axes.

    Raises:
        InputError: It is no comparison, no class has an example, or the order names none of them.
    """
    if not isinstance(comparison, Comparison):
        raise InputError(f"Give a comparison, result.compare(first, second), but got {comparison!r:.60}.")
    measured = some(comparison.by_class[comparison.by_class["n"] > 0])
    lowest = measured[["first", "second"]].min(axis=1).sort_values(kind="stable")
    chosen = in_order(measured, measured.loc[lowest.index], order)
    shown = chosen.head(max(row_room(ax, MOST_CLASSES + 3) - 3, 1))
    whole = pd.DataFrame([comparison.mean, comparison.worst_class])[["first", "second", "difference", "low", "high"]]
    rows = pd.concat([whole.astype(np.float64).assign(p_adjusted=np.nan), shown[[*whole, "p_adjusted"]]])
    numbers = 100 * rows[["first", "second", "low", "high"]].to_numpy(dtype=np.float64)
    first, second, low, high = numbers.T
    a, b = comparison.worst_class[["first_class", "second_class"]]
    room = name_room(ax)
    half = (room - text_width("worst:  / ")) / 2
    both = f"{fit(a, half)} / {fit(b, half)}" if half > points(_SHORTEST) else "each its own"
    worst = fit(a, 2 * half) if a == b else both
    names = ["mean", f"worst: {worst}", *fit_all(shown.index, room)]
    left, right = widest(names), text_width("+100.0 *") + points(1)
    ax = canvas(ax, 5, row_height(len(rows) + 1), left + right)
    position = np.arange(len(rows)) + 0.5 * (np.arange(len(rows)) >= 2)
    clear = (rows["p_adjusted"] <= _ALPHA).to_numpy(copy=True)
    clear[:2] = (rows["low"].iloc[:2] > 0) | (rows["high"].iloc[:2] < 0)
    colours = np.where(~clear, OTHER, np.where(first > second, ROBUST, WORST))
    ax.hlines(position, first, second, color=colours, lw=3.5, alpha=0.4, zorder=1)
    bars = ax.hlines(
        position, np.maximum(second + low, 0), np.minimum(second + high, 100), color="black", lw=1, zorder=2
    )
    dots: dict[str, Any] = {"s": 38, "zorder": 4, "clip_on": False, "lw": 1.3}
    one = ax.scatter([], [], facecolor=MEAN, edgecolor=MEAN, **dots)
    ax.scatter(first, position, facecolor=colours, edgecolor=colours, **dots)
    other = ax.scatter(second, position, facecolor="white", edgecolor="black", **{**dots, "zorder": 3})
    class_axis(ax, names)
    ax.set_yticks(position, names)
    ax.set_ylim(position[-1] + 0.6, -0.6)
    ax.axhline(1.75, color="0.8", lw=0.8)
    for y, points_apart, starred in zip(position, 100 * rows["difference"], clear, strict=True):
        text = "0.0" if abs(points_apart) < 0.05 else f"{points_apart:+.1f}".replace("-", "\N{MINUS SIGN}")
        ax.annotate(
            f"{text} *" if starred else f"{text}  ",
            (1, y),
            xycoords=ax.get_yaxis_transform(),
            xytext=(right, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            fontsize=points(SMALL),
            fontweight="bold" if starred else "normal",
        )
    what = accuracy_of(comparison, f"{comparison.kind} accuracy")
    percent_axis(ax, "x", f"{what}; right: difference (points)")
    ax.set_ylabel(weakest(len(shown), len(measured), order))
    interval = f"{100 * comparison.confidence:g} % interval of their difference, from the second"
    most = legend_room(ax, left, right)
    pair = [_in_two_lines(name, most - points(9)) for name in (comparison.first, comparison.second)]
    entries = {f"first: {pair[0]}": one, f"second: {pair[1]}": other, interval: bars}
    caption(ax, title, *_findings(comparison, measured), legend=entries, left=left, right=right)
    return ax


def _in_two_lines(name: str, room: float) -> str:
    """Cut a name to two lines, if it has spaces to be folded at, or to one."""
    long = fit(name, 2 * room, cells=60)
    return long if all(text_width(line) <= room for line in fold(long, room)) else fit(name, room, cells=60)


def _findings(comparison: Comparison, measured: pd.DataFrame) -> list[str]:
    mean, worst = (" ".join(difference(row)) for row in (comparison.mean, comparison.worst_class))
    clear = measured["p_adjusted"] <= _ALPHA
    better, worse = (int((clear & side).sum()) for side in (measured["difference"] > 0, measured["difference"] < 0))
    return [
        f"first minus second, points: mean {mean}, worst class {worst}",
        f"*: better in {better:,} classes, worse in {worse:,}, undecided in {len(measured) - better - worse:,}",
    ]
