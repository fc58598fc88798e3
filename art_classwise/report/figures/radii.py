"""Models over radii: the mean of the classes and the worst one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.errors import unknown
from art_classwise.report.figures.curves import check_radii, name_radii
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import (
    MEAN,
    accuracy_of,
    canvas,
    caption,
    fit_all,
    label,
    name_room,
    percent_axis,
    points,
    side_labels,
    widest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from art_classwise.audit import AuditResult

__all__ = ["models_by_radius"]

# Told apart by the colour-blind, too (Okabe, Ito 2008); where there are more models, they come again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@in_any_script
def models_by_radius(
    results: Sequence[AuditResult],
    models: Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    attack: str = WORST_CASE,
    title: str = "",
) -> Axes:
    """Draw each model's robust accuracy against the radius: the mean of its classes, and its worst class.

    At radius 0 stands the accuracy without attack. The worst class is that of each radius, so it may change along a
    line. Of a single model, bands are the 95 % intervals under attack.

    Args:
        results: Audits of the same models and examples, by rising radius.
        models: Which models; all if absent.
        ax: Where to draw; a new figure if absent.
        attack: An attack that all audits have, or ``"all attacks"``.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: There are fewer than two audits, their radii don't rise, or they are of different models, norms or
            examples.
    """
    check_radii(results, None if models is None and not results else results[0].models[0])
    names = list(results[0].models if models is None else models)
    for name in names:
        if name not in results[0].models:
            raise unknown("model", name, results[0].models)
        check_radii(results, name)
    eps = [0.0, *(result.threat.eps for result in results)]
    curves = {name: _curve(results, name, attack) for name in names}
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    shown = fit_all(names, name_room(ax))
    right = widest(shown) + points(3)
    ax = canvas(ax, 5.6, 4.4, right)
    for (_, curve), colour in zip(curves.items(), colours, strict=True):
        for kind, dashes in (("mean", "-"), ("worst", "--")):
            marker = "o" if len(eps) <= 10 else ""
            ax.plot(eps, curve[kind], color=colour, ls=dashes, lw=1.8, marker=marker, ms=4, clip_on=False, zorder=3)
            if len(names) == 1:
                low, high = curve[f"{kind}_low"], curve[f"{kind}_high"]
                ax.fill_between(eps, low, high, color=colour, alpha=0.18, lw=0)
    estimates = attack == WORST_CASE and all(result.is_quick_estimate for result in results)
    percent_axis(ax, "y", accuracy_of(results[0] if estimates else None))
    ax.set_xlim(0, eps[-1])
    ends = np.array([curve["mean"].iloc[-1] for curve in curves.values()])
    side_labels(ax, np.full(len(names), eps[-1]), ends, shown, colours)
    last = results[-1].summary(attack).loc[names]
    best = str(last["worst"].idxmax())
    worst, of_class = 100 * last["worst"].max(), label(last["worst_class"][best])
    which = f"worst: {of_class}" if len(names) == 1 else f"highest worst class: {of_class} of {label(best)}"
    findings = [f"{which}, {worst:.1f} % at {results[-1].threat}"]
    entries = {
        "mean over classes": Line2D([], [], color=MEAN, lw=1.8),
        "worst class": Line2D([], [], color=MEAN, lw=1.8, ls="--"),
    }
    ax.set_xlabel(f"radius ({results[0].threat.norm})")
    caption(ax, title, *findings, legend=dict(entries), right=right)
    name_radii(ax, eps, ["0", *(str(result.threat).partition(":")[2] for result in results)])
    return ax


def _curve(results: Sequence[AuditResult], model: str, attack: str) -> pd.DataFrame:
    """Return mean and worst class in percent with their intervals, a row per radius from 0 on."""
    table = results[0].class_table(model, attack)
    clean = table.loc[table["n"] > 0, "clean"]
    columns = [f"{kind}{end}" for kind in ("mean", "worst") for end in ("", "_low", "_high")]
    without = pd.DataFrame([{"mean": clean.mean(), "worst": clean.min()}])
    under = [result.summary(attack).loc[[model], columns] for result in results]
    return 100 * pd.concat([without, *under], ignore_index=True)[columns].astype(float)
