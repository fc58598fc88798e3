"""Which class is taken for which under attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.metrics.confusion import confusion_pairs
from art_classwise.metrics.groups import Groups, class_groups
from art_classwise.report.figures._cells import draw_cells, name_columns
from art_classwise.report.figures._style import (
    ROBUST,
    WORST,
    canvas,
    class_axis,
    headline,
    label,
    percent_axis,
    row_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion", "group_confusion"]

_MOST_CELLS = 20
_MOST_PAIRS = 25


def confusion(matrix: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the confusion under attack: as a matrix up to 20 classes, else the strongest pairs as bars.

    Args:
        matrix: (C, C), a row per true class: ``result.confusion(model, attack)``, shares of each row or, with
            ``normalize=False``, counts; of counts the bars have intervals.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is no confusion matrix, or no class has an example.
    """
    shares, counts = _checked(matrix)
    names = list(matrix.index)
    if len(names) > _MOST_CELLS:
        return _pairs(shares, counts, names, ax, title)
    return _matrix(shares, names, ax, title)


def group_confusion(matrix: pd.DataFrame, groups: Groups, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the confusion under attack between groups of classes.

    Args:
        matrix: (C, C) counts: ``result.confusion(model, attack, normalize=False)``. Shares of each class can't be
            pooled: they don't tell how many examples a class has.
        groups: As :func:`art_classwise.metrics.class_groups` takes them.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is no matrix of counts, no class has an example, or the groups don't fit the classes.
    """
    _, counts = _checked(matrix)
    if counts is None:
        raise InputError("Shares can't be pooled: give counts, result.confusion(model, attack, normalize=False).")
    of = class_groups(groups, [str(name) for name in matrix.index])
    pooled = pd.DataFrame(counts).groupby(of).sum().T.groupby(of).sum().T
    return confusion(pooled, ax, title=title)


def _checked(matrix: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
    """Return shares of each row, NaN in a row without examples, and counts if that is what was given."""
    call = "result.confusion(model, attack)"
    if not isinstance(matrix, pd.DataFrame) or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"The matrix must be a DataFrame (C, C), as {call} returns it, but got {matrix!r:.60}.")
    values = matrix.to_numpy(dtype=np.float64)
    if not (np.nan_to_num(values) >= 0).all() or list(map(str, matrix.index)) != list(map(str, matrix.columns)):
        raise InputError(f"The matrix must have the same classes as rows and columns, as {call} returns it.")
    totals = values.sum(axis=1, keepdims=True)
    if not (np.nan_to_num(totals) > 0).any():
        raise InputError("There is nothing to draw: no class has an example.")
    counted = all(pd.api.types.is_integer_dtype(d) for d in matrix.dtypes)
    if not counted and not np.allclose(totals[~np.isnan(totals)], 1):
        raise InputError(f"Each row must sum to 1, or hold counts, as {call} returns it.")
    return values / np.where(totals > 0, totals, np.nan), values.astype(np.int64) if counted else None


def _matrix(shares: npt.NDArray[np.float64], names: list[Any], ax: Axes | None, title: str) -> Axes:
    ax = canvas(ax, 2 + 0.42 * len(names), row_height(len(names)))
    draw_cells(ax, 100 * shares, "Blues")
    class_axis(ax, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    name_columns(ax, names)
    ax.set(xlabel="predicted under attack (% of the true class)", ylabel="true class")
    off = np.where(np.eye(len(names), dtype=bool), -1, np.nan_to_num(shares, nan=-1))
    i, j = np.unravel_index(off.argmax(), off.shape)
    headline(ax, title, f"most often: {label(names[i])} → {label(names[j])}, {100 * off.max():.0f} %")
    return ax


def _pairs(
    shares: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64] | None,
    names: list[Any],
    ax: Axes | None,
    title: str,
) -> Axes:
    if counts is not None:
        truth, predicted = np.nonzero(counts)
        times = counts[truth, predicted]
        table = confusion_pairs(np.repeat(truth, times), np.repeat(predicted, times), len(names), classes=names)
    else:
        off = np.nan_to_num(shares) * ~np.eye(len(names), dtype=bool)
        i, j = np.nonzero(off)
        index = pd.MultiIndex.from_arrays([[names[k] for k in i], [names[k] for k in j]])
        table = pd.DataFrame({"share": off[i, j]}, index=index).sort_values("share", ascending=False, kind="stable")
    shown = table.head(_MOST_PAIRS)
    ax = canvas(ax, 6.4, row_height(len(shown)))
    position = np.arange(len(shown))
    ax.barh(position, 100 * shown["share"], color=[WORST, *[ROBUST] * (len(shown) - 1)], height=0.72)
    if counts is not None:
        ax.hlines(position, 100 * shown["low"], 100 * shown["high"], color="black", lw=1.2)
    class_axis(ax, [f"{label(a, 18)} → {label(b, 18)}" for a, b in shown.index])
    percent_axis(ax, "x", "predicted as the other class (% of the true class)")
    ax.set_ylabel(f"the {len(shown)} strongest of {len(table):,} pairs")
    headline(ax, title)
    return ax
