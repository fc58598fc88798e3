"""Class accuracy against the radius of the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.errors import InputError
from art_classwise.report.figures._curves import draw_curves
from art_classwise.report.figures._names import label, name_room, text_width
from art_classwise.report.figures._style import BEST, WORST, points, slot

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

    At radius 0 stands the accuracy without attack. Bands around the classes that are worst and best, over all radii
    taken together, are their 95 % intervals. Of more than 20 classes, 12 are drawn, spread over the ranking, and the
    gap and mean of all.

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
    name = _checked(results, model)
    tables = [result.class_table(name, attack) for result in results]
    tables = [t[t["n"] > 0] for t in tables]
    without = tables[0][["clean", "clean_low", "clean_high"]].set_axis(["robust", "low", "high"], axis=1)
    eps = [0.0, *(result.threat.eps for result in results)]
    curves, low, high = (
        pd.DataFrame([100 * t[column] for t in (without, *tables)], index=pd.Index(eps))
        for column in ("robust", "low", "high")
    )
    ranking = curves.iloc[1:].mean().sort_values(kind="stable").index
    gap = curves[ranking[-1]] - curves[ranking[0]]
    at = gap.iloc[1:].idxmax()
    radius = str(results[eps.index(at) - 1].threat)
    findings = [
        f"worst: {label(ranking[0])}, {curves.loc[at, ranking[0]]:.1f} % at {radius}",
        f"{gap[at]:.1f} points below the best, {label(ranking[-1])}" if len(ranking) > 1 else "",
    ]
    xlabel = f"radius ({results[0].threat.norm})"
    ax = draw_curves(ax, curves, ranking, title=title, findings=findings, xlabel=xlabel)
    for c, colour in {ranking[-1]: BEST, ranking[0]: WORST}.items():
        ax.fill_between(eps, low[c], high[c], color=colour, alpha=0.22, lw=0, zorder=1.5)
    _name_radii(ax, eps, ["0", *(str(result.threat).partition(":")[2] for result in results)])
    return ax


def _checked(results: Sequence[AuditResult], model: str | None) -> str:
    """Return the name of the model, once the audits are known to be of one question."""
    from art_classwise.audit.comparability import check_audit

    if not isinstance(results, Sequence) or len(results) < 2:
        raise InputError("`results` must be two audits or more, at different radii: [audit_at_2, audit_at_4, ...].")
    for i, result in enumerate(results):
        check_audit(f"Number {i + 1} of `results`", result)
    first = results[0]
    several = next((r for r in results if len(r.models) > 1), None)
    if model is None and several is not None:
        raise InputError(f"An audit has {len(several.models)} models: say which, model={several.models[0]!r}, say.")
    name = first.models[0] if model is None else model
    rows = first.rows(name, WORST_CASE)
    for before, result in pairwise(results):
        if result.threat.norm != first.threat.norm:
            raise InputError(f"The audits have different norms: {first.threat} and {result.threat}.")
        if result.threat.eps <= before.threat.eps:
            raise InputError(
                f"The radii must rise from audit to audit, but {result.threat} follows {before.threat}: sort them, "
                "sorted(results, key=lambda result: result.threat.eps)."
            )
        if result.classes != first.classes:
            raise InputError("The audits have different classes.")
        other = result.rows(name, WORST_CASE)
        if not np.array_equal(other[["example", "label"]], rows[["example", "label"]]):
            raise InputError(f"The audits at {first.threat} and at {result.threat} are of different examples.")
        if not np.array_equal(other["clean_prediction"], rows["clean_prediction"]):
            raise InputError(
                f"{name!r} isn't the same model at {first.threat} and at {result.threat}: without attack, its "
                "predictions differ."
            )
    return name


def _name_radii(ax: Axes, eps: Sequence[float], names: Sequence[str]) -> None:
    """Name the radii on the x axis, from the largest on: those between which there is room."""
    per_point = eps[-1] / slot(ax, name_room(None))[0]
    free, texts = np.inf, [""] * len(eps)
    for i in reversed(range(len(eps))):
        half = per_point * text_width(names[i], 1) / 2
        if eps[i] + half < free:
            texts[i], free = names[i], eps[i] - half - points(0.5) * per_point
    ax.set_xticks(eps, texts)
