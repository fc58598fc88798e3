"""Matrices: accuracy by class and attack, and confusion between classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.patches import Rectangle

from art_classwise.errors import InputError
from art_classwise.metrics.accuracy import Groups, group_labels
from art_classwise.metrics.confusion import confusion as count_confusion
from art_classwise.metrics.confusion import confusion_pairs, within_groups
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import (
    MOST_CLASSES,
    ON_DARK,
    ON_LIGHT,
    ROBUST,
    SMALL,
    WORST,
    accuracy_of,
    canvas,
    caption,
    check_table,
    class_axis,
    column_room,
    fit_all,
    fit_pairs,
    fold,
    in_order,
    label,
    name_room,
    percent_axis,
    points,
    row_height,
    row_room,
    slot,
    some,
    text_width,
    weakest,
    widest,
    worst_classes,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["ColumnNames", "class_by_attack", "column_names", "confusion", "draw_cells", "group_confusion"]

_ABSENT = (0.93, 0.93, 0.93, 1.0)
# Right and wrong, more opaque the more of a row: what shows through is the ground, light or dark.
_RIGHT, _WRONG = mpl.colors.to_rgb("#08519c"), mpl.colors.to_rgb("#d94801")


def draw_cells(
    ax: Axes, left: float, percent: npt.NDArray[np.float64], shades: npt.NDArray[np.float64], *, zeros: bool = True
) -> None:
    """Draw a matrix of percentages, row 0 on top, with the numbers where there is room.

    Args:
        ax: The axes.
        left: The width of the names beside them, in points.
        percent: (rows, columns); NaN is drawn as a dash on grey.
        shades: (rows, columns, 4), the colours.
        zeros: Whether to write a number that rounds to 0.
    """
    rows, columns = percent.shape
    shades = shades.copy()
    shades[np.isnan(percent)] = _ABSENT
    ax.pcolormesh(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, shades, edgecolors="white", lw=0.8)
    width, height = slot(ax, left)
    size = min(points(0.86), 0.45 * width / columns, 0.8 * height / rows)
    for i, j in np.ndindex(rows, columns):
        unknown = np.isnan(percent[i, j])
        if size < 4 or (not zeros and not unknown and percent[i, j] < 0.5):
            continue
        *colour, opaque = shades[i, j]
        light = np.array(colour) @ (0.299, 0.587, 0.114) * opaque + 1 - opaque > 0.55
        of_ground = unknown or opaque < 1  # its letters are the page's, which may be light ones
        ink = ("black" if of_ground else ON_LIGHT) if light else ON_DARK
        text = "–" if unknown else f"{percent[i, j]:.0f}"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=ink)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


@dataclass(frozen=True)
class ColumnNames:
    """Names under the columns of a matrix.

    Attributes:
        texts: On one line each, or a word on each line.
        upright: Whether they stand on their side, for lack of room.
        height: What they need, in points.
    """

    texts: tuple[str, ...]
    upright: bool
    height: float

    def write(self, ax: Axes) -> None:
        """Name the columns 0, 1, ... of the x axis."""
        at = np.arange(len(self.texts))
        ax.set_xticks(at, self.texts, rotation=90 if self.upright else 0, fontsize=points(SMALL))


def column_names(ax: Axes | None, names: Iterable[object], inches: float, left: float) -> ColumnNames:
    """Return how to name columns: a word on each line, or upright where these don't fit.

    Args:
        ax: Where they will stand; new axes if absent.
        names: The names.
        inches: The width of a column in new axes.
        left: The width of the names beside the axes, in points.
    """
    texts = fit_all(names, name_room(None, 11))
    room = column_room(ax, inches, len(texts), left) - points(0.4)
    folded = [fold(text, room, after=" -") for text in texts]
    if max(text_width(line, bold=False) for lines in folded for line in lines) <= room:
        return ColumnNames(tuple(map("\n".join, folded)), False, points(1.2 * SMALL) * max(map(len, folded)))
    return ColumnNames(tuple(texts), True, widest(texts))


_CELL = 0.85
"""The width of a column in inches."""
_BY_ATTACK = "result.by_attack(model)"


@in_any_script
def class_by_attack(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "", order: Sequence[str] | None = None
) -> Axes:
    """Draw each class's accuracy without attack, under each attack and under all of them, as a heat map.

    The class that is weakest in the last column is on top; the last row is the mean over all classes. Of more than 40
    classes, or of more than ``ax`` has room for, the weakest are drawn. Dark is weak.

    Args:
        table: A row per class, a column per attack, fractions: ``result.by_attack(model)``.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.
        order: Names of classes from top to bottom, to compare several figures; the weakest first if absent.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, no class has an example, or the order names none of them.
    """
    values = check_table(table, ["clean"], _BY_ATTACK)
    strange = [str(c) for c, kind in values.dtypes.items() if not pd.api.types.is_float_dtype(kind)]
    if strange or "robust" in values or len(values.columns) < 2:
        raise InputError(f"The table must hold an accuracy in each column: give one as {_BY_ATTACK} returns it.")
    last = values.columns[-1]
    measured = some(values.dropna(how="all")).sort_values(last, kind="stable", na_position="last")
    shown = in_order(values, measured, order).head(max(row_room(ax, MOST_CLASSES + 1) - 1, 1))
    percent = 100 * np.vstack([shown.to_numpy(), measured.mean().to_numpy()])
    rows, columns = percent.shape
    names = [*fit_all(shown.index, name_room(ax)), "mean"]
    left = widest(names)
    heads = column_names(ax, table.columns, _CELL, left)
    ax = canvas(ax, 0.8 + _CELL * columns, row_height(rows) - 0.2 + heads.height / 72, left)
    draw_cells(ax, left, percent, mpl.colormaps["cividis"](np.nan_to_num(percent) / 100))
    worst = np.append(percent[:-1, -1] == 100 * measured[last].iloc[0], False)
    class_axis(ax, names, worst)
    heads.write(ax)
    ax.set_ylim(rows - 0.5, -0.5)
    # What is no class, and what is no single attack, stands apart.
    ax.axhline(rows - 1.5, color="white", lw=4)
    for edge in {0.5, columns - 1.5}:
        ax.axvline(edge, color="white", lw=4)
    what = accuracy_of(table, "accuracy")
    ax.set(xlabel=f"{what}: without attack, and under each", ylabel=weakest(len(shown), len(measured), order))
    known = measured[last].dropna()
    caption(ax, title, f"under {label(last)}, {worst_classes(known)}" if len(known) else "", left=left)
    return ax


_MOST_CELLS = 20
_MOST_PAIRS = 25
_CALL = "result.confusion(model, attack)"


@in_any_script
def confusion(
    matrix: pd.DataFrame, ax: Axes | None = None, *, title: str = "", order: Sequence[str] | None = None
) -> Axes:
    """Draw the confusion under attack: as a matrix up to 20 classes, else the strongest pairs as bars.

    Pairs are drawn, too, where ``ax`` has no room for the matrix. In it, what is right is blue and what is wrong
    orange; a class without examples is grey.

    Args:
        matrix: (C, C), a row per true class: ``result.confusion(model, attack)``, shares of each row or, with
            ``normalize=False``, counts; of counts, bars have their 95 % intervals (Wilson 1927). The strongest of many
            pairs are there by chance, too: an interval is for its pair alone.
        ax: Where to draw; a new figure of fitting size if absent.
        title: Above the axes.
        order: Names of classes from top to bottom and from left to right, the others after them; that of the matrix if
            absent. Pairs are ordered by their strength.

    Returns:
        The axes.

    Raises:
        InputError: It is no confusion matrix, or no class has an example.
    """
    _checked(matrix)
    if order is not None:
        names = [*dict.fromkeys(name for name in [*order, *matrix.index] if name in matrix.index)]
        matrix = matrix.loc[names, names]
    shares, counts = _checked(matrix)
    names = list(matrix.index)
    if len(names) > row_room(ax, _MOST_CELLS):
        return _pairs(shares, counts, names, ax, title)
    return _matrix(shares, names, ax, title, _strongest(shares, names), "class")


@in_any_script
def group_confusion(matrix: pd.DataFrame, groups: Groups, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the confusion under attack between groups of classes.

    On the diagonal is what stays within a group: the right class, or another one of the group.

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
    classes = [str(name) for name in matrix.index]
    truth, predicted = _examples(counts)
    of, names = group_labels(truth, groups, classes)
    pooled = count_confusion(
        of, group_labels(predicted, groups, classes)[0], len(names), classes=names, normalize=False
    )
    shares, pooled_counts = _checked(pooled)
    if len(names) > row_room(ax, _MOST_CELLS):
        return _pairs(shares, pooled_counts, names, ax, title)
    errors = within_groups(truth, predicted, groups, classes).loc["all groups"]
    stay = ""
    if errors["errors"]:
        within, expected = (100 * errors[c] for c in ("within", "expected"))
        stay = f"{within:.0f} % of errors stay within the group (by chance: {expected:.0f} %)"
    return _matrix(shares, names, ax, title, stay, "group")


def _checked(matrix: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
    """Return shares of each row, NaN in a row without examples, and the counts if that is what was given."""
    if not isinstance(matrix, pd.DataFrame) or matrix.shape[0] != matrix.shape[1]:
        shape = f" of shape {matrix.shape}" if isinstance(matrix, (pd.DataFrame, np.ndarray)) else ""
        raise InputError(
            f"The matrix must be a DataFrame (C, C), as {_CALL} returns it, but got {type(matrix).__name__}{shape}."
        )
    if list(matrix.index) != list(matrix.columns) or not all(pd.api.types.is_numeric_dtype(d) for d in matrix.dtypes):
        raise InputError(f"The matrix must have the same classes as rows and as columns, as {_CALL} returns it.")
    values = matrix.to_numpy(dtype=np.float64)
    if (values < 0).any() or np.isinf(values).any():
        raise InputError(f"The matrix must hold shares or counts, none below 0, as {_CALL} returns it.")
    totals = values.sum(axis=1, keepdims=True)
    some(matrix[np.nan_to_num(totals[:, 0]) > 0])
    counted = all(pd.api.types.is_integer_dtype(d) for d in matrix.dtypes)
    if not counted and not np.allclose(totals[~np.isnan(totals)], 1):
        raise InputError(f"Each row must sum to 1, or hold whole counts, as {_CALL} returns it.")
    return values / np.where(totals > 0, totals, np.nan), values.astype(np.int64) if counted else None


def _examples(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return true and predicted labels, (n,) each, of which these are the counts."""
    truth, predicted = np.nonzero(counts)
    times = counts[truth, predicted]
    return np.repeat(truth, times), np.repeat(predicted, times)


def _errors(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the shares off the diagonal, 0 on it and where nothing is known."""
    errors: npt.NDArray[np.float64] = np.nan_to_num(shares) * ~np.eye(len(shares), dtype=bool)
    return errors


def _largest(errors: npt.NDArray[np.float64]) -> tuple[int, int]:
    i, j = divmod(int(errors.argmax()), len(errors))
    return i, j


def _strongest(shares: npt.NDArray[np.float64], names: Sequence[Any]) -> str:
    errors = _errors(shares)
    if not errors.any():
        return "nothing is confused"
    i, j = _largest(errors)
    return f"strongest: {label(names[i])} → {label(names[j])}, {100 * errors[i, j]:.1f} %"


def _matrix(
    shares: npt.NDArray[np.float64], names: Sequence[Any], ax: Axes | None, title: str, finding: str, kind: str
) -> Axes:
    n = len(names)
    cell = 0.46 if n > 6 else 0.9  # in inches
    rows = fit_all(names, name_room(ax))
    left = widest(rows)
    heads = column_names(ax, names, cell, left)
    ax = canvas(ax, max(0.8 + cell * n, 3.8), 1.2 + 0.32 * n + heads.height / 72, left)
    right, filled = np.eye(n, dtype=bool), np.nan_to_num(shares)
    shades = np.concatenate([np.where(right[..., None], _RIGHT, _WRONG), 0.95 * filled[..., None] ** 0.6], axis=2)
    draw_cells(ax, left, 100 * shares, shades, zeros=False)
    class_axis(ax, rows)
    ax.set_ylim(n - 0.5, -0.5)
    heads.write(ax)
    ax.set(xlabel=f"predicted under attack (% of the true {kind})", ylabel=f"true {kind}")
    errors = _errors(shares)
    if errors.any():
        i, j = _largest(errors)
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=WORST, lw=2, zorder=3, clip_on=False))
    caption(ax, title, finding, left=left)
    return ax


def _pairs(
    shares: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64] | None,
    names: Sequence[Any],
    ax: Axes | None,
    title: str,
) -> Axes:
    if counts is not None:
        table = confusion_pairs(*_examples(counts), len(names), classes=names)
    else:
        i, j = np.nonzero(_errors(shares))
        index = pd.MultiIndex.from_arrays([[names[k] for k in of.tolist()] for of in (i, j)])
        table = pd.DataFrame({"share": shares[i, j], "reverse": shares[j, i]}, index=index)
        table = table.sort_values("share", ascending=False, kind="stable")
    shown = some(table, "nothing is confused").head(row_room(ax, _MOST_PAIRS))
    labels = fit_pairs(shown.index, name_room(ax, 20))
    left = widest(labels)
    ax = canvas(ax, 5, row_height(len(shown)), left)
    position, share = np.arange(len(shown)), 100 * shown["share"].to_numpy()
    first = share == share[0]
    bars = ax.barh(position, share, color=np.where(first, WORST, ROBUST), height=0.72)
    entries: dict[str, Artist] = {"taken for the other" + (", 95 % interval" if counts is not None else ""): bars[-1]}
    if counts is not None:
        ax.hlines(position, 100 * shown["low"], 100 * shown["high"], color="black", lw=1.2)
    back: dict[str, Any] = {"marker": "D", "facecolor": "white", "edgecolor": "black", "lw": 1}
    entries["the other way round"] = ax.scatter(100 * shown["reverse"], position, s=26, zorder=3, clip_on=False, **back)
    class_axis(ax, labels, first)
    percent_axis(ax, "x", "predicted as the other under attack (% of the first)")
    among = f"the {len(shown)} strongest of {len(table):,} pairs" if len(shown) < len(table) else "pair"
    ax.set_ylabel(among)
    ties = int((table["share"] == table["share"].iloc[0]).sum())
    finding = _strongest(shares, names) if ties == 1 else f"strongest: {ties:,} pairs at {share[0]:.1f} %"
    per_class = ""
    if counts is not None:
        n = counts.sum(axis=1)
        per_class = f"examples of a class: {np.median(n[n > 0]):.0f} (median)"
    caption(ax, title, finding, per_class, legend=entries, left=left)
    return ax
