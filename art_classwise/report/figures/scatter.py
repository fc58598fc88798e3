"""Class accuracy against other measures of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.metrics.correlation import correlations
from art_classwise.report.figures._labels import (
    caption,
    check_class_table,
    check_table,
    fit_all,
    name_room,
    side_labels,
    some,
    widest,
)
from art_classwise.report.figures._style import MEAN, OTHER, ROBUST, WORST, canvas, draw_mean, percent_axis, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attack_strength", "weight_norms"]

_MOST_LABELS = 12
_ENDS = 3


def attack_strength(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw what each class loses from a weak attack to a strong one against its accuracy under the weak one.

    If the stronger attack hit all classes alike, they would lie on the level of the mean. A class can't lose more than
    it has: none lies above the thin line. Of more than 12 classes, the three weakest and the three that lose most have
    their names.

    Args:
        table: ``result.attack_strength(model, weak, strong)``. With its ``split_seed``, what says how weak a class is
            and what says how much it loses are of different examples: else their noise correlates them.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    columns = ["n", "baseline", "weak", "strong", "drop", "low", "high", "cumulated"]
    rows = check_table(table, columns, "result.attack_strength(model, weak, strong)")
    measured = some(rows[(rows["n"] > 0) & rows["baseline"].notna()]).sort_values("baseline", kind="stable")
    x, y = 100 * measured["baseline"], 100 * measured["drop"]
    largest = y.sort_values(ascending=False, kind="stable").index
    named = _named(measured.index, largest[:_ENDS])
    names = fit_all(named, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.4, 4.4, right)
    low, high = 100 * measured["low"], 100 * measured["high"]
    ax.set_ylim(min(0.0, low.min()) - 2, max(high.max() * 1.05, 5))
    percent_axis(ax, "x", "accuracy under the weaker attack (%)")
    ax.set_ylabel("lost to the stronger attack (points)")
    floor = ax.axline((0, 0), slope=1, color=MEAN, lw=0.8, zorder=1)
    if ax.get_ylim()[0] < -2:
        ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    _points(ax, x, y, low, high, named, names)
    mean = float(y.mean())
    same = np.allclose(measured["baseline"], measured["weak"])
    caption(
        ax,
        title,
        _share(measured),
        _correlation("spearman", x, y),
        "both axes from the same examples: their noise correlates them" if same else "",
        legend={f"mean, {mean:.1f} points": draw_mean(ax, "y", mean), "all that a class has": floor},
        right=right,
    )
    return ax


def weight_norms(norms: npt.ArrayLike, table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy against the norm of its weights in the last layer.

    Of more than 12 classes, the three weakest and the three most robust have their names. Classes with a norm of 0,
    which were excluded in training, are left out.

    Args:
        norms: (C,): ``art_classwise.metrics.head_weight_norms(classifier)``.
        table: A row per class, in the same order: ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, no class has an example, or the norms are not as many as the classes, or no
            norms.
    """
    measured = check_class_table(table)
    try:
        values = np.asarray(norms, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(())
    if values.shape != (len(table),) or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"`norms` must be a norm for each of the {len(table)} classes, as metrics.head_weight_norms(classifier) "
            f"returns them, but got {norms!r:.60}."
        )
    all_norms = pd.Series(values, index=table.index)
    measured = some(measured[all_norms[measured.index] > 0], "every class was excluded in training")
    x, y = all_norms[measured.index], 100 * measured["robust"]
    named = _named(measured.index, measured.index[::-1][:_ENDS])
    names = fit_all(named, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.4, 4.4, right)
    percent_axis(ax, "y", "robust accuracy (%)")
    ax.set_xlabel("L2 norm of the class's weights in the last layer")
    margin = 0.06 * float(np.ptp(x)) or 0.1 * float(x.iloc[0])
    ax.set_xlim(float(x.min()) - margin, float(x.max()) + margin)
    _points(ax, x, y, 100 * measured["low"], 100 * measured["high"], named, names)
    mean = float(y.mean())
    caption(
        ax,
        title,
        _correlation("pearson", x, y),
        _correlation("spearman", x, y),
        legend={f"mean, {mean:.1f} %": draw_mean(ax, "y", mean)},
        right=right,
    )
    return ax


def _named(ranking: pd.Index, others: pd.Index) -> list[Any]:
    """Return the classes to name, the worst first: all up to 12, else the three weakest and the others."""
    chosen = ranking if len(ranking) <= _MOST_LABELS else [*ranking[:_ENDS], *others]
    return [*dict.fromkeys(chosen)]


def _points(
    ax: Axes,
    x: pd.Series[float],
    y: pd.Series[float],
    low: pd.Series[float],
    high: pd.Series[float],
    named: Sequence[Any],
    names: Sequence[str],
) -> None:
    """Draw a point per class with its interval, the worst in its colour, and the names of some, the worst first."""
    worst = x.index == named[0]
    few = len(x) <= 100  # the intervals of more would be a cloud
    drawn = np.full(len(x), True) if few else worst
    ax.vlines(x[drawn], low[drawn], high[drawn], color="0.8", lw=1, zorder=1.5)
    size = 30 if few else 10
    ax.scatter(x[~worst], y[~worst], color=ROBUST, s=size, zorder=3, lw=0, clip_on=False)
    ax.scatter(x[worst], y[worst], color=WORST, s=size + 20, marker="D", zorder=4, lw=0, clip_on=False)
    at_x, at_y = (of[named].to_numpy().astype(np.float64) for of in (x, y))
    side_labels(ax, at_x, at_y, names, [WORST, *[OTHER] * (len(names) - 1)])


def _share(measured: pd.DataFrame) -> str:
    """Say which part of the drop falls on the weakest third of the classes."""
    k = max(len(measured) // 3, 1)
    share = measured["cumulated"].iloc[k - 1]
    if np.isnan(share) or len(measured) < 3:
        return ""
    alike = f"if all lost alike: {100 * k / len(measured):.0f} %"
    return f"{100 * share:.0f} % of the loss is of the {k} weakest classes ({alike})"


def _correlation(kind: str, a: npt.ArrayLike, b: npt.ArrayLike) -> str:
    row = correlations(a, b).loc[kind]
    if np.isnan(row["value"]):
        return ""
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    chance = "" if row["p"] <= 0.05 else ": may be chance"
    return f"{kind.capitalize()}'s correlation {row['value']:.2f}, {p}, {row['n']:.0f} classes{chance}"
