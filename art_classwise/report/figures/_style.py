"""What the figures share: colours, sizes and axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from art_classwise.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.text import Text

__all__ = [
    "BEST",
    "CLEAN",
    "GAP",
    "MEAN",
    "MOST_CLASSES",
    "OTHER",
    "ROBUST",
    "WORST",
    "canvas",
    "check_axes",
    "class_axis",
    "draw_mean",
    "mark",
    "percent_axis",
    "points",
    "row_height",
    "row_room",
    "slot",
    "weakest",
]

# Okabe and Ito's palette, told apart by all common kinds of colour vision. Blue and vermilion are much alike in grey:
# the worst class is also told by its place, its bold name, or the kind of its line.
CLEAN, ROBUST, WORST = "#56B4E9", "#0072B2", "#D55E00"
BEST, OTHER, MEAN = ROBUST, "0.6", "0.25"
MOST_CLASSES = 40
GAP = 0.7
"""Between names and axes, of the size of the reader's letters: a dot at 0 must not look like a letter."""


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
        size = (width * scale + names / 72, height * scale)
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
    """Return so many times the size of the reader's letters, in points."""
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


def row_height(rows: int) -> float:
    """Return the inches of a figure with so many rows of text, its heading and its legend."""
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
    """Write a text in the colour of the worst class, bold: in grey, that is what tells it."""
    text.set(color=WORST, fontweight="bold")


def percent_axis(ax: Axes, which: str, text: str) -> None:
    """Let an axis reach from 0 % to 100 %."""
    ax.set(**{f"{which}lim": (0, 100), f"{which}label": text})
    ax.spines[["top", "right"]].set_visible(False)


def draw_mean(ax: Axes, which: str, value: float) -> Artist:
    """Draw the mean over classes as a dashed line across an axis."""
    style: dict[str, Any] = {"color": MEAN, "lw": 1, "ls": (0, (4, 3)), "zorder": 0.5}
    return ax.axvline(value, **style) if which == "x" else ax.axhline(value, **style)


def weakest(shown: int, among: int) -> str:
    """Return the label of the axis of classes: how many of them are drawn."""
    return "class" if shown == among else f"the {shown} weakest of {among:,} classes"
