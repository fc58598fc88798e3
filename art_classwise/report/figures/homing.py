"""What becomes robust once a class is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from art_classwise.report.figures._checks import check_table, some
from art_classwise.report.figures._heading import caption
from art_classwise.report.figures._names import fit_all, fit_pairs, name_room, widest
from art_classwise.report.figures._style import MEAN, ROBUST, canvas, class_axis, percent_axis, row_height, row_room

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["homing"]

_MOST_ROWS = 30


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
    caption(ax, title, *_findings(rows), legend={"without the class": homed} if alone else filled, left=left)
    return ax


def _findings(rows: pd.DataFrame) -> list[str]:
    """Say which share withstands before and after, of the examples that have a control if any has one."""
    controlled = rows[rows["control_homed"].notna()]
    told = controlled if len(controlled) else rows
    after, control = (
        100 * np.average(told[c].to_numpy(np.float64), weights=told["n"].to_numpy(np.float64))
        for c in ("homed", "control_homed")
    )
    beside = f", the control {control:.0f} %" if len(controlled) else "; there is no control"
    number = f"{told['n'].sum():,}" + (f" of the {rows['n'].sum():,}" if len(told) < len(rows) else "")
    return [
        f"withstand: before 0 %, without the class {after:.0f} %{beside}",
        f"of {number} examples moved into an excluded class",
    ]
