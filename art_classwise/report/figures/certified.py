"""Certified accuracy over radii, a curve per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from art_classwise.certification.result import CertifiedResult
from art_classwise.errors import InputError
from art_classwise.report.figures.curves import draw_curves
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import BEST, WORST, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["certified_by_radius"]

_POINTS = 61


@in_any_script
def certified_by_radius(result: CertifiedResult, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw the certified accuracy of each class against the radius, up to the largest that could be certified.

    Bands around the classes that are worst and best, over all radii taken together, are their exact 95 % intervals. Of
    more than 20 classes, 12 are drawn, spread over the ranking, and the gap and mean of all.

    Args:
        result: What :func:`art_classwise.certify` returned.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is no such result, or nothing could be certified.
    """
    if not isinstance(result, CertifiedResult):
        raise InputError(f"`result` must be what certify() returned, but is a {type(result).__name__}.")
    reach = result.certificate.reach
    if reach == 0:
        raise InputError("Nothing can be certified with so few samples: certify with a larger `n`.")
    table = result.certified_at(np.linspace(0, reach, _POINTS).tolist())
    table = table[table["n"] > 0]
    curves, low, high = (100 * table[column].unstack("class") for column in ("certified", "low", "high"))
    ranking = curves.mean().loc[[c for c in result.classes if c in curves]].sort_values(kind="stable").index
    gap = curves[ranking[-1]] - curves[ranking[0]]
    at = float(curves.index[int(gap.to_numpy().argmax())])
    lowest = float(curves[ranking[0]].to_numpy()[int(gap.to_numpy().argmax())])
    findings = [
        f"worst: {label(ranking[0])}, {lowest:.1f} % at {at:.3g}",
        f"{gap.max():.1f} points below the best, {label(ranking[-1])}" if len(ranking) > 1 else "",
    ]
    xlabel, ylabel = f"radius ({result.certificate.norm})", "certified accuracy (%)"
    ax = draw_curves(ax, curves, ranking, title=title, findings=findings, xlabel=xlabel, ylabel=ylabel)
    for c, colour in {ranking[-1]: BEST, ranking[0]: WORST}.items():
        ax.fill_between(curves.index, low[c], high[c], color=colour, alpha=0.22, lw=0, zorder=1.5)
    return ax
