"""Names of classes and models in a figure: on one line, as long as there is room for, and never over each other."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from rich.cells import cell_len

from art_classwise.report._text import printable, shorten
from art_classwise.report.figures._style import MEAN, OTHER, check_axes, points, slot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "SMALL",
    "fit",
    "fit_all",
    "fit_pairs",
    "fold",
    "label",
    "name_room",
    "side_labels",
    "text_width",
    "widest",
]

SMALL = 0.88
"""The size of names, of that of the reader's letters."""
_MOST_CELLS = 24


def _plain(text: object) -> str:
    """Return a name with nothing in it that matplotlib would take for mathematics or for the end of a line."""
    return printable(str(text)).replace("$", r"\$")


def label(text: object, cells: int = _MOST_CELLS) -> str:
    """Return a name of so many cells at most, as it may stand in a sentence."""
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
    """Cut the middle out of a name until it is no wider than so many points; at the least, 3 cells are left."""
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
        return points(most)
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
            arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.6, "shrinkA": 1, "shrinkB": 3, "zorder": 1},
            annotation_clip=False,
        )
