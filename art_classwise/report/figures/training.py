"""The robustness of each class over the epochs of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from art_classwise._labels import class_names
from art_classwise.errors import InputError, unknown
from art_classwise.report.figures._style import BEST, OTHER, WORST, canvas, headline, label, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["training_curves"]


def training_curves(
    history: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "",
    classes: Sequence[str] | None = None,
    data: Literal["validation", "training"] | None = None,
) -> Axes:
    """Draw the robust accuracy of each class over the epochs, the gap between best and worst shaded.

    After Figure 1 of Tian et al. 2021 (arXiv 2105.14240). Of more than 20 classes, 12 are drawn, spread over the
    ranking, and the gap of all.

    Args:
        history: What ``trainer.fit`` returns, or :func:`art_classwise.trainers.training_history`.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.
        classes: Names of the classes; their numbers if absent.
        data: On which examples: those of the ``"validation"``, or of the ``"training"``, before each step; validation
            if absent and the history has it.

    Returns:
        The axes.

    Raises:
        InputError: It is no history, it has no such accuracies, or the names are not as many as its classes.
    """
    if not isinstance(history, pd.DataFrame) or "epoch" not in history:
        raise InputError(f"The history must be a DataFrame, as trainer.fit(...) returns it, but got {history!r:.60}.")
    if data not in (None, "validation", "training"):
        raise unknown("kind of data", data, ("validation", "training"))
    validated = "val_robust_0" in history
    prefix = "val_robust_" if data == "validation" or (data is None and validated) else "robust_"
    columns = [c for c in history if str(c).startswith(prefix) and str(c)[len(prefix) :].isdecimal()]
    curves = 100 * history.set_index("epoch")[columns].dropna(how="all").dropna(how="all", axis=1)
    if curves.empty:
        raise InputError("The history has no robust accuracy of classes.")
    names = class_names(classes, len(columns))
    curves.columns = pd.Index([names[int(str(c)[len(prefix) :])] for c in curves])
    last = curves.iloc[-1].sort_values(kind="stable")
    ax = canvas(ax, 6.4, 4)
    ax.fill_between(curves.index, curves.min(axis=1), curves.max(axis=1), color="0.9", lw=0)
    for name in last.index:
        colour = WORST if name == last.index[0] else BEST if name == last.index[-1] else OTHER
        ax.plot(curves.index, curves[name], color=colour, lw=1)
    percent_axis(ax, "y", "robust accuracy (%)")
    ax.set_xlabel("epoch")
    headline(ax, title, f"worst: {label(last.index[0])}, {last.iloc[0]:.1f} %; gap {np.ptp(last):.1f} points")
    return ax
