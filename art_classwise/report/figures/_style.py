"""What the figures share: colours, sizes, labels, headings, and what they check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from art_classwise.errors import InputError
from art_classwise.report._text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.text import Text

__all__ = [
    "BEST",
    "CLEAN",
    "MOST_CLASSES",
    "OTHER",
    "ROBUST",
    "WORST",
    "canvas",
    "check_class_table",
    "check_table",
    "class_axis",
    "headline",
    "label",
    "legend_below",
    "percent_axis",
    "row_height",
]

# Okabe and Ito's palette, told apart by all common kinds of colour vision.
CLEAN, ROBUST, WORST = "#56B4E9", "#0072B2", "#D55E00"
BEST = ROBUST
OTHER = "0.55"
MOST_CLASSES = 40


def canvas(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axes to draw on: those given, or new ones in a pyplot figure of so many inches.

    Raises:
        InputError: What was given is something else.
    """
    if ax is None:
        from matplotlib import pyplot

        scale = mpl.rcParams["font.size"] / 10
        _, made = pyplot.subplots(figsize=(width * scale, height * scale), layout="constrained")
        return made
    if not isinstance(ax, Axes):
        raise InputError(f"`ax` must be matplotlib axes, such as pyplot.subplots()[1], but got {ax!r:.60}.")
    return ax


def row_height(rows: int) -> float:
    """Return the inches of a figure with so many rows of text, its heading and its legend."""
    return 1.8 + 0.26 * rows


def label(text: object, length: int = 24) -> str:
    """Return a name as it may stand in a figure: on one line, not too long, and never mathematics."""
    return shorten(printable(str(text)), length).replace("$", r"\$")


def headline(ax: Axes, title: str, *findings: str) -> None:
    """Write the title above the axes, and below it what is to be seen, a line each."""
    lines = [line for line in findings if line]
    size = mpl.rcParams["font.size"] * 0.86
    if lines:
        ax.annotate(
            "\n".join(lines),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 5),
            textcoords="offset points",
            va="bottom",
            fontsize=size,
            color="0.25",
            linespacing=1.25,
        )
    if title:
        pad = 6 + 1.3 * size * len(lines)
        ax.set_title(label(title, 48), loc="left", fontsize="medium", fontweight="bold", pad=pad)


def legend_below(ax: Axes, entries: Mapping[str, Artist], columns: int = 2) -> None:
    """Put a legend under the label of the x axis, flush right: under the names of the classes too, if need be."""
    figure = ax.figure
    assert figure is not None
    down = ScaledTranslation(0, -0.35 * mpl.rcParams["font.size"] / 7.2, figure.dpi_scale_trans)
    ax.legend(
        entries.values(),
        [f" {text}" if text.startswith("_") else text for text in entries],  # which would hide it
        loc="upper right",
        bbox_to_anchor=(1.0, 0.0),
        bbox_transform=ax.transAxes + down,
        ncols=columns,
        frameon=False,
        fontsize="small",
        borderaxespad=0,
    )


def class_axis(ax: Axes, names: Sequence[object], worst: npt.NDArray[np.bool_] | Sequence[bool] | None = None) -> None:
    """Name the rows 0, 1, ... of the y axis from top to bottom, the worst in its colour and bold."""
    ax.set_yticks(np.arange(len(names)), [label(name) for name in names])
    ax.tick_params(axis="y", length=0)
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


def weakest(shown: int, all_: int) -> str:
    """Return the label of the axis of classes: how many of them are drawn."""
    return "class" if shown == all_ else f"the {shown} weakest of {all_:,} classes"


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
        raise InputError(
            f"The table must have a row per class, as {call} returns it, but is indexed by "
            f"{', '.join(map(str, table.index.names))}."
        )
    return table


def check_class_table(table: Any, columns: Sequence[str] = ("n", "clean", "robust", "low", "high")) -> pd.DataFrame:
    """Return the classes of a class table that have examples, weakest first.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    checked = check_table(table, columns, "result.class_table(model, attack)")
    measured = checked[checked["n"] > 0].sort_values("robust", kind="stable")
    if len(measured) == 0:
        raise InputError("There is nothing to draw: no class has an example.")
    return measured
