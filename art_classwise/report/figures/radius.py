"""Class accuracy against the radius of the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.errors import InputError
from art_classwise.report.figures._style import BEST, OTHER, WORST, canvas, headline, label, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from art_classwise.audit.result import AuditResult

__all__ = ["accuracy_by_radius"]


def accuracy_by_radius(
    results: Sequence[AuditResult],
    model: str | None = None,
    ax: Axes | None = None,
    *,
    attack: str = WORST_CASE,
    title: str = "",
) -> Axes:
    """Draw the robust accuracy of each class against the radius, from audits of one model at several radii.

    Args:
        results: Audits on the same examples, by rising radius.
        model: Name of the model; absent where each audit has but one.
        ax: Where to draw; a new figure if absent.
        attack: An attack that all audits have, or ``"all attacks"``.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: There are fewer than two audits, their radii don't rise, or they are of different models, norms or
            examples.
    """
    from art_classwise.audit.compare import check_audit

    for result in results:
        check_audit("Each of `results`", result)
    name = results[0].models[0] if model is None else model
    eps = [result.threat.eps for result in results]
    if len(eps) < 2 or not (np.diff(eps) > 0).all():
        raise InputError("Give two audits or more, by rising radius.")
    curves = pd.DataFrame({e: 100 * r.class_table(name, attack)["robust"] for e, r in zip(eps, results, strict=True)}).T
    curves = curves.dropna(axis=1)
    mean = curves.mean().sort_values(kind="stable")
    ax = canvas(ax, 6.4, 4)
    ax.fill_between(curves.index, curves.min(axis=1), curves.max(axis=1), color="0.9", lw=0)
    for c in mean.index:
        colour = WORST if c == mean.index[0] else BEST if c == mean.index[-1] else OTHER
        ax.plot(curves.index, curves[c], color=colour, lw=1)
    percent_axis(ax, "y", "robust accuracy (%)")
    ax.set_xlabel(f"radius ({results[0].threat.norm})")
    headline(ax, title, f"worst: {label(mean.index[0])}")
    return ax
