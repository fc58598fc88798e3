"""Class accuracy against other measures of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.metrics.agreement import correlations
from art_classwise.report.figures._style import ROBUST, canvas, check_class_table, check_table, headline, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attack_strength", "weight_norms"]


def attack_strength(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw what each class loses from a weak attack to a strong one against its accuracy under the weak one.

    Args:
        table: ``result.attack_strength(model, weak, strong)``.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    columns = ["n", "baseline", "weak", "strong", "drop", "low", "high"]
    measured = check_table(table, columns, "result.attack_strength(model, weak, strong)")
    measured = measured[measured["n"] > 0]
    if len(measured) == 0:
        raise InputError("There is nothing to draw: no class has an example.")
    ax = canvas(ax, 6, 4.2)
    x, y = 100 * measured["baseline"], 100 * measured["drop"]
    ax.vlines(x, 100 * measured["low"], 100 * measured["high"], color="0.7", lw=0.8)
    ax.scatter(x, y, color=ROBUST, s=24, zorder=3)
    percent_axis(ax, "x", "accuracy under the weak attack (%)")
    ax.set_ylabel("lost to the strong attack (points)")
    headline(ax, title, _correlation("spearman", x, y))
    return ax


def weight_norms(norms: npt.ArrayLike, table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy against the norm of its weights in the last layer.

    Args:
        norms: (C,): ``art_classwise.metrics.head_weight_norms(classifier)``.
        table: A row per class, in the same order: ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, no class has an example, or the norms are not as many as the classes.
    """
    measured = check_class_table(table)
    values = np.asarray(norms, dtype=np.float64)
    if values.shape != (len(table),):
        raise InputError(f"There must be a norm for each of {len(table)} classes, but they have shape {values.shape}.")
    ax = canvas(ax, 6, 4.2)
    x = pd.Series(values, index=table.index)[measured.index]
    y = 100 * measured["robust"]
    ax.vlines(x, 100 * measured["low"], 100 * measured["high"], color="0.7", lw=0.8)
    ax.scatter(x, y, color=ROBUST, s=24, zorder=3)
    percent_axis(ax, "y", "robust accuracy (%)")
    ax.set_xlabel("L2 norm of the class's weights in the last layer")
    headline(ax, title, _correlation("pearson", x, y))
    return ax


def _correlation(kind: str, a: npt.ArrayLike, b: npt.ArrayLike) -> str:
    row = correlations(a, b).loc[kind]
    if np.isnan(row["value"]):
        return ""
    return f"{kind.capitalize()} {row['value']:.2f} (p = {row['p']:.2g}, {row['n']:.0f} classes)"
