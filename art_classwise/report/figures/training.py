"""The robustness of each class over the epochs of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError, unknown
from art_classwise.report.figures._curves import draw_curves
from art_classwise.report.figures._names import label
from art_classwise.report.figures._style import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["training_curves"]

_PREFIX = {"validation": "val_robust_", "training": "robust_"}


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
    ranking, and the gap and mean of all. Classes are ranked at the epoch that was kept, which a thin line marks.

    Args:
        history: What ``trainer.fit`` returns, or :func:`art_classwise.trainers.training_history`.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.
        classes: Names of the classes; their numbers if absent.
        data: On which examples: ``"validation"`` ones, or those of the ``"training"``, in train mode before each step.
            Validation if absent, where the history has it.

    Returns:
        The axes.

    Raises:
        InputError: It is no history, it has no such accuracies, or the names are not as many as its classes.
    """
    if not isinstance(history, pd.DataFrame) or "epoch" not in history:
        raise InputError(f"The history must be a DataFrame, as trainer.fit(...) returns it, but got {history!r:.60}.")
    if data is not None and data not in _PREFIX:
        raise unknown("kind of data", data, _PREFIX)
    tables = {kind: _curves(history, prefix) for kind, prefix in _PREFIX.items()}
    drawn: str = data or next((kind for kind, table in tables.items() if table.notna().any(axis=None)), "training")
    curves = tables[drawn]
    if not curves.notna().any(axis=None):
        raise InputError(
            f"The history has no robust accuracy of classes in {drawn}: train with an attack, or give trainer.fit(...) "
            "`validation_data`."
        )
    curves.columns = pd.Index(class_names(classes, len(curves.columns)))
    curves = curves.dropna(how="all").dropna(how="all", axis=1)
    kept: int | None = history.attrs.get("kept_epoch")
    at = kept if kept is not None and kept in curves.index else int(curves.index[-1])
    ranking = pd.Series(curves.loc[at]).sort_values(kind="stable").dropna()
    curves = curves[ranking.index]
    low, high = ranking.iloc[0], ranking.iloc[-1]
    findings = [
        f"epoch {at}{', which was kept' if kept == at else ''}: worst {label(ranking.index[0])}, {low:.1f} %",
        f"{high - low:.1f} points below the best, {label(ranking.index[-1])}" if len(ranking) > 1 else "",
    ]
    ax = draw_curves(ax, curves, ranking.index, title=title, findings=findings, xlabel="epoch")
    ax.set_ylabel(f"robust accuracy in {drawn} (%)")  # on one line, though it is longer than low axes
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if kept is not None and len(curves) > 1:
        ax.axvline(at, color=MEAN, lw=0.8, zorder=1, ymax=0.97)
    return ax


def _curves(history: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return percent by epoch, a column per class in their order."""
    named = {int(str(c).removeprefix(prefix)): c for c in history if str(c).startswith(prefix)}
    values = history[[named[k] for k in sorted(named)]].to_numpy(dtype=np.float64)
    return pd.DataFrame(100 * values, index=pd.Index(history["epoch"]), columns=sorted(named))
