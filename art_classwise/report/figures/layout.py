"""What the figures share: colours, sizes, axes, names, captions, and checks of what they draw."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation
from rich.cells import cell_len

from art_classwise.errors import InputError
from art_classwise.metrics.disparity import disparity_test
from art_classwise.report.tables import printable, shorten

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = [
    "BEST",
    "CLEAN",
    "GAP",
    "MEAN",
    "MOST_CLASSES",
    "ON_DARK",
    "ON_LIGHT",
    "OTHER",
    "ROBUST",
    "SMALL",
    "WORST",
    "accuracy_of",
    "canvas",
    "caption",
    "chance",
    "check_axes",
    "check_class_table",
    "check_table",
    "class_axis",
    "column_room",
    "draw_mean",
    "fit",
    "fit_all",
    "fit_pairs",
    "fold",
    "in_order",
    "label",
    "legend_room",
    "mark",
    "name_room",
    "no_wider_than",
    "percent_axis",
    "points",
    "row_height",
    "row_room",
    "side_labels",
    "slot",
    "some",
    "text_width",
    "weakest",
    "widest",
    "worst_classes",
]

# Okabe and Ito's palette, told apart by all common kinds of colour vision. Blue and vermilion are much alike in grey:
# the worst class is also told by its place, its bold name, or the kind of its line.
CLEAN, ROBUST, WORST = "#56B4E9", "#0072B2", "#D55E00"
_WORST_INK = "#B34700"
BEST, OTHER, MEAN = ROBUST, "0.6", "0.25"
ON_LIGHT, ON_DARK = "#010101", "#fefefe"
"""Letters on colours that stay as they are where the ground is dark: no other ink has these two."""
MOST_CLASSES = 40
_FOLDED = 0.5  # inches more in height, where headings and legends take more lines for lack of width
GAP = 0.7
"""Between names and axes, of the size of the reader's letters: a dot at 0 must not look like a letter."""


_widest: ContextVar[float | None] = ContextVar("_widest", default=None)


@contextmanager
def no_wider_than(inches: float) -> Iterator[None]:
    """Let new figures be no wider than this, names included: for a telephone's screen."""
    before = _widest.set(inches)
    try:
        yield
    finally:
        _widest.reset(before)


def canvas(ax: Axes | None, width: float, height: float, names: float = 0.0) -> Axes:
    """Return the axes to draw on: those given, or new ones in a pyplot figure.

    Args:
        ax: What was given.
        width: Of the figure in inches, without the names beside the axes.
        height: Of the figure in inches.
        names: The width of the names, in points.

    Raises:
        InputError: What was given is something else.
    """
    if ax is None:
        from matplotlib import pyplot

        scale = points(1) / 10  # larger letters need a larger figure
        size, widest = (width * scale + names / 72, height * scale), _widest.get()
        if widest is not None and size[0] > widest:
            size = (widest, size[1] + _FOLDED * scale)
        return pyplot.subplots(figsize=size, layout="constrained")[1]
    return check_axes(ax)


def check_axes(ax: Any) -> Axes:
    """Return what was given, if it can be drawn on.

    Raises:
        InputError: It can't.
    """
    if not isinstance(ax, Axes):
        raise InputError(f"`ax` must be matplotlib axes, such as pyplot.subplots()[1], but got {ax!r:.60}.")
    return ax


def points(ems: float) -> float:
    """Return a multiple of the reader's font size, in points."""
    return ems * float(mpl.rcParams["font.size"])


def slot(ax: Axes, names: float) -> tuple[float, float]:
    """Return about how wide and high the axes will be, in points, once names beside them have so much of the width."""
    box, figure = check_axes(ax).get_window_extent(), ax.figure
    assert figure is not None
    width, height = box.width * 72 / figure.dpi, box.height * 72 / figure.dpi
    # Of the figure's part that is theirs, about four fifths are within the axes before all is laid out.
    return (
        min(max(width / 0.8 - names - points(5), 0.3 * width), width),
        min(max(height / 0.8 - points(12), 0.4 * height), height),
    )


def column_room(ax: Axes | None, inches: float, columns: int, names: float) -> float:
    """Return how wide each of several columns will be, in points.

    Args:
        ax: Where they will stand; new axes if absent.
        inches: The width of a column in new axes.
        columns: How many.
        names: The width of the names beside them, in points.
    """
    if ax is not None:
        return slot(ax, names)[0] / columns
    widest = _widest.get()
    most = math.inf if widest is None else (72 * widest - names - points(3)) / columns
    return min(points(7.2 * inches), most)


def legend_room(ax: Axes, left: float, right: float) -> float:
    """Return how wide a legend below the axes and the names on the left may be, in points.

    Args:
        ax: The axes.
        left: The width of the names on the left, in points.
        right: Likewise on the right.
    """
    figure = ax.figure
    if _widest.get() is None or not isinstance(figure, Figure):
        return slot(ax, left + right)[0] + left
    return 72 * float(figure.get_size_inches()[0]) - right - points(2)  # the figure holds nothing else


def row_height(rows: int) -> float:
    """Return the height in inches of a figure with this many rows of text, a heading and a legend."""
    return 1.8 + 0.26 * max(rows, 3)


def row_room(ax: Axes | None, most: int) -> int:
    """Return how many rows of text there is room for beside the axes, ``most`` at most; in new axes that many."""
    if ax is None:
        return most
    return min(most, max(int(slot(ax, 0)[1] / points(1.15)), 1))


def class_axis(ax: Axes, names: Sequence[str], worst: npt.NDArray[np.bool_] | None = None) -> None:
    """Name the rows 0, 1, ... of the y axis from top to bottom, the worst in its colour and bold."""
    ax.set_yticks(np.arange(len(names)), names, fontsize=points(0.88))
    ax.tick_params(axis="y", length=0, pad=points(GAP))
    for i, text in enumerate(ax.get_yticklabels()):
        if worst is not None and worst[i]:
            mark(text)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.spines[["top", "right"]].set_visible(False)


def mark(text: Text) -> None:
    """Write a text in the colour of the worst class, darker than its bar, and bold: in grey, that is what tells it."""
    text.set(color=_WORST_INK, fontweight="bold")


def percent_axis(ax: Axes, which: str, text: str) -> None:
    """Let an axis reach from 0 % to 100 %."""
    ax.set(**{f"{which}lim": (0, 100), f"{which}label": text})
    ax.spines[["top", "right"]].set_visible(False)


def accuracy_of(source: Any, kind: str = "robust accuracy") -> str:
    """Return the label of an axis of accuracies, which says where they are a quick estimate.

    Args:
        source: What is drawn: a table of an audit, an audit, or a comparison.
        kind: Of the accuracies.
    """
    attrs: Mapping[str, Any] = getattr(source, "attrs", {})
    estimate = attrs.get("quick_estimate", getattr(source, "is_quick_estimate", False))
    return f"quick estimate of {kind} (%)" if estimate else f"{kind} (%)"


def draw_mean(ax: Axes, which: str, value: float) -> Artist:
    """Draw the mean over classes as a dashed line across an axis."""
    style: dict[str, Any] = {"color": MEAN, "lw": 1, "ls": (0, (4, 3)), "zorder": 0.5}
    return ax.axvline(value, **style) if which == "x" else ax.axhline(value, **style)


def weakest(shown: int, among: int, order: Sequence[str] | None = None) -> str:
    """Return the label of the axis of classes: how many of them are drawn, and in which order if one is given."""
    if shown >= among:
        return "class"
    return f"the {shown} weakest of {among:,} classes" if order is None else f"{shown} of {among:,} classes"


SMALL = 0.88
"""The size of names, of that of the reader's letters."""
_MOST_CELLS = 24


def _plain(text: object) -> str:
    """Escape what matplotlib would read as mathematics or as the end of a line."""
    return printable(str(text)).replace("$", r"\$")


def label(text: object, cells: int = _MOST_CELLS) -> str:
    """Return a name, shortened to at most ``cells`` cells, for use in a sentence."""
    return _plain(shorten(printable(str(text)), cells))


def text_width(text: str, size: float = SMALL, *, bold: bool = True) -> float:
    """Return the width of a line in points; size is a multiple of that of the reader's letters."""
    return _width(text.replace(r"\$", "$"), points(size), bold, tuple(mpl.rcParams["font.family"]))


@lru_cache(maxsize=10_000)
def _width(text: str, size: float, bold: bool, family: tuple[str, ...]) -> float:
    font = FontProperties(family=list(family), size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that the font lacks: a box stands for them
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return 1.03 * float(width)  # on a screen letters stand on whole pixels


def fit(text: object, room: float, size: float = SMALL, cells: int = _MOST_CELLS) -> str:
    """Cut the middle out of a name until it is at most ``room`` points wide; at least 3 cells remain."""
    raw = printable(str(text))
    short = shorten(raw, cells)
    while text_width(short, size) > room and cells > 3:
        cells = max(min(int(cell_len(short) * room / text_width(short, size)), cell_len(short) - 1), 3)
        short = shorten(raw, cells)
    return _plain(short)


def fit_all(names: Iterable[object], room: float) -> list[str]:
    """Return :func:`fit` of each."""
    return [fit(name, room) for name in names]


def fit_pairs(pairs: Iterable[tuple[object, object]], room: float) -> list[str]:
    """Return labels of pairs of classes, the first taken for the second, each within so many points."""
    half = (room - text_width(" → ")) / 2
    return [f"{fit(a, half)} → {fit(b, half)}" for a, b in pairs]


def widest(names: Iterable[str]) -> float:
    """Return the width of the widest name in points."""
    return max(map(text_width, names), default=0.0)


def name_room(ax: Axes | None, most: float = 14) -> float:
    """Return how wide names beside the axes may be, in points: so many letters' heights, less in small axes."""
    if ax is None:
        widest = _widest.get()
        return points(most) if widest is None else min(points(most), 0.36 * 72 * widest)
    figure = check_axes(ax).figure
    assert figure is not None
    return min(points(most), 0.4 * ax.get_window_extent().width * 72 / figure.dpi)


def fold(text: str, room: float, after: str = " ") -> list[str]:
    """Return the lines of a text, each no wider than so many points where its words allow it.

    Args:
        text: The text.
        room: In points.
        after: After which characters a line may end.
    """
    lines = [""]
    for word in re.split(f"(?<=[{after}])", text):
        if lines[-1] and text_width((lines[-1] + word).rstrip(), bold=False) > room:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


_LEADER = {"arrowstyle": "-", "color": "0.75", "lw": 0.6, "shrinkA": 1, "shrinkB": 3, "zorder": 1}


def side_labels(
    ax: Axes,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Name points beside the axes, at their height or as near as the others allow, with a line to each.

    Args:
        ax: The axes; the limits of y are those it will have.
        x: Of each point, (k,).
        y: Of each point, (k,).
        names: Of each, the most important ones first: where not all fit, the others are left out.
        colours: Of each; what isn't grey is bold.
    """
    from scipy.optimize import isotonic_regression

    low, high = ax.get_ylim()
    step = 1.3 * points(SMALL) / slot(ax, 0)[1]
    k = min(len(names), int(1 / step) + 1)
    heights = (y[:k] - low) / (high - low)
    order = np.argsort(heights, kind="stable")
    # The nearest heights (least squares) that are a step apart and within the axes.
    apart = isotonic_regression(heights[order] - step * np.arange(k)).x
    at = np.empty(k)
    at[order] = np.clip(apart, 0, max(1 - step * (k - 1), 0)) + step * np.arange(k)
    for i in range(k):
        ax.annotate(
            names[i],
            (x[i], y[i]),
            xytext=(1.05, at[i]),
            textcoords="axes fraction",
            va="center",
            fontsize=points(SMALL),
            color=MEAN if colours[i] == OTHER else colours[i],
            fontweight="normal" if colours[i] == OTHER else "bold",
            # To the name's beginning: to its middle, the lines of others would run through it.
            arrowprops={**_LEADER, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


_TITLE_CELLS = 60


def caption(
    ax: Axes,
    title: str,
    *findings: str,
    legend: Mapping[str, Artist] | None = None,
    left: float = 0.0,
    right: float = 0.0,
) -> None:
    """Write the title above the axes, under it what is to be seen, and a legend below; fold what stands along the axes.

    The labels of the axes are set before: the legend stands below the lines that these take.

    Args:
        ax: The axes.
        title: One line; cut in the middle where it is too long.
        findings: Each begins a line, and goes on in the next one where it is too long.
        legend: What is drawn, by what it is.
        left: The width of the names on the left, in points: the text begins above them, the legend may stand under
            them.
        right: The width of the names on the right: likewise.
    """
    wider = max(left, right)  # labels and legend may reach under the names on the other side
    _fold_labels(ax, wider)
    _write_heading(ax, title, findings, left, right)
    if legend:
        to_the_right = right > left
        room = legend_room(ax, wider, min(left, right)) if _widest.get() else slot(ax, wider)[0] + wider
        _write_legend(ax, legend, room, to_the_right=to_the_right)


def _fold_labels(ax: Axes, names: float) -> None:
    """Fold the labels of both axes where they are longer than these."""
    width, height = slot(ax, names)
    for axis, room in ((ax.xaxis, width), (ax.yaxis, height)):
        # Their letters are larger than those of names.
        axis.set_label_text("\n".join(fold(axis.get_label().get_text(), SMALL * room)))


def _write_heading(ax: Axes, title: str, findings: Sequence[str], left: float, right: float) -> None:
    room = slot(ax, left + right)[0] + left + right
    texts = [finding.replace(" %", "\N{NO-BREAK SPACE}%") for finding in findings if finding]
    lines = [line for text in texts for line in fold(text, room)]
    shift = -(left + points(GAP)) if left else 0.0
    if lines:
        ax.annotate(
            "\n".join(lines),
            (0, 1),
            xycoords="axes fraction",
            xytext=(shift, points(0.5)),
            textcoords="offset points",
            va="bottom",
            fontsize=points(SMALL),
            color=MEAN,
            linespacing=1.2,
        )
    if title:
        figure = ax.figure
        assert figure is not None
        text = ax.set_title(
            fit(title, room, 1, _TITLE_CELLS),
            loc="left",
            fontsize=points(1),
            fontweight="bold",
            pad=points(0.7 + 1.4 * SMALL * len(lines)),
        )
        text.set_transform(text.get_transform() + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans))


def _write_legend(ax: Axes, entries: Mapping[str, Artist], room: float, *, to_the_right: bool) -> None:
    """Put a legend under the label of the x axis, in as many columns as fit within so many points."""
    figure = ax.figure
    assert figure is not None
    more_lines = ax.get_xlabel().count("\n")
    folded = ["\n".join(fold(text, room - points(4.5))) for text in entries]
    widths = [max(text_width(line, bold=False) for line in text.split("\n")) + points(4.5) for text in folded]
    columns = max(int(room / max(widths)), 1) if sum(widths) > room else len(widths)
    down = ScaledTranslation(0, -points(3.7 + 1.2 * more_lines) / 72, figure.dpi_scale_trans)
    ax.legend(
        entries.values(),
        [f" {text}" if text.startswith("_") else text for text in folded],  # which would hide it
        loc="upper left" if to_the_right else "upper right",
        bbox_to_anchor=(0.0 if to_the_right else 1.0, 0.0),
        bbox_transform=ax.transAxes + down,
        ncols=columns,
        frameon=False,
        fontsize=points(SMALL),
        borderaxespad=0,
    )


CLASS_TABLE = "result.class_table(model, attack)"


def check_table(table: Any, columns: Sequence[str], call: str, *, levels: int = 1) -> pd.DataFrame:
    """Check that a table is what a figure draws.

    Args:
        table: What was given.
        columns: Those it must have.
        call: What makes such a table.
        levels: Of its index.

    Raises:
        InputError: It isn't.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"The table must be a DataFrame, as {call} returns it, but got {table!r:.60}.")
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"The table has no {', '.join(missing)}: give one as {call} returns it.")
    if table.index.nlevels != levels:
        of = ", ".join(map(str, table.index.names))
        raise InputError(f"The table is indexed by {of}: give one as {call} returns it.")
    return table


def check_class_table(table: Any) -> pd.DataFrame:
    """Return the classes of a class table that have examples, weakest first.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    checked = check_table(table, ("n", "clean", "robust", "robust_low", "robust_high"), CLASS_TABLE)
    return some(checked[checked["n"] > 0]).sort_values("robust", kind="stable")


def in_order(table: pd.DataFrame, measured: pd.DataFrame, order: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows to draw, from top to bottom.

    Args:
        table: All classes.
        measured: Those that have examples, the weakest first: what is drawn where no order is given.
        order: Names of classes; what isn't among them isn't drawn, and one without examples is left blank.

    Raises:
        InputError: None of them is in the table.
    """
    if order is None:
        return measured
    named = [name for name in dict.fromkeys(order) if name in table.index]
    return some(table.loc[named], "`order` names none of the classes")


def some(rows: pd.DataFrame, what: str = "no class has an example") -> pd.DataFrame:
    """Return the rows, of which there must be one.

    Raises:
        InputError: There is none.
    """
    if len(rows) == 0:
        raise InputError(f"There is nothing to draw: {what}.")
    return rows


def worst_classes(accuracies: pd.Series[float]) -> str:
    """Say which class is the worst and how far it is from the best, of fractions with the weakest first."""
    lowest, highest = 100 * float(accuracies.iloc[0]), 100 * float(accuracies.iloc[-1])
    ties = int((accuracies == accuracies.iloc[0]).sum())
    if ties == len(accuracies) > 1:
        return f"all classes: {lowest:.1f} %"
    which = label(accuracies.index[0]) if ties == 1 else f"{ties} classes"
    gap = f", {highest - lowest:.1f} points below the best" if len(accuracies) > 1 else ""
    return f"worst: {which}, {lowest:.1f} %{gap}"


def chance(measured: pd.DataFrame) -> str:
    """Return a remark if the classes of a class table may be equally robust, else nothing."""
    n = measured["n"].to_numpy().astype(np.int64)
    if len(n) < 2:
        return ""
    right = (measured["robust"].to_numpy() * n).round().astype(np.int64)
    number = np.arange(len(n))
    withstood = np.repeat(np.tile([True, False], len(n)), np.stack([right, n - right], axis=1).ravel())
    p = disparity_test(np.repeat(number, n), withstood, len(n), repeats=1000)["p"]
    return f"may be chance: equal classes would differ as much with p = {p:.2f}" if p > 0.05 else ""
