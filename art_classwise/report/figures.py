"""Figures. Each takes a table and an optional ``ax``, and returns the axes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.errors import InputError
from art_classwise.report._text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_accuracy", "models_by_class", "to_png", "to_svg"]

# Okabe and Ito's palette, told apart by all common kinds of colour vision, and in grey by their lightness.
CLEAN, ROBUST, WORST = "#56B4E9", "#0072B2", "#D55E00"
_MOST_CLASSES = 40


def class_accuracy(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy as a bar with its interval, and its clean accuracy as a tick.

    The worst class is on top, in another colour. Of more than 40 classes the 40 worst are drawn.

    Args:
        table: A row per class: ``n``, ``clean``, ``robust``, ``low``, ``high``; e.g.
            ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure of fitting height if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: No class has an example.
    """
    measured = table[table["n"] > 0].sort_values("robust", kind="stable")
    if len(measured) == 0:
        raise InputError("There is nothing to draw: no class has an example.")
    shown = measured.head(_MOST_CLASSES)
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(6, _height(len(shown))), layout="constrained")
    position = np.arange(len(shown))
    robust = shown["robust"].to_numpy() * 100
    is_worst = robust == robust[0]  # several, where they tie
    bars = ax.barh(position, robust, color=np.where(is_worst, WORST, ROBUST), height=0.72)
    ax.hlines(position, shown["low"] * 100, shown["high"] * 100, color="black", lw=1.2)
    clean = ax.scatter(shown["clean"] * 100, position, marker="|", s=120, color=CLEAN, lw=2.5, zorder=3, clip_on=False)
    ax.set_yticks(position, [_label(str(c)) for c in shown.index])
    for label in np.asarray(ax.get_yticklabels())[is_worst]:
        label.set(color=WORST, fontweight="bold")  # a bar of 0 % shows no colour
    ax.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6), xlabel="accuracy (%)")
    if title:
        ax.set_title(_label(title, 48), loc="left", fontsize="medium", fontweight="bold")
    mean = float(measured["robust"].mean() * 100)
    line = ax.axvline(mean, color="0.35", lw=1, ls=(0, (4, 3)), zorder=0)
    entries = {
        "clean": clean,
        "robust, with 95 % interval": bars[-1],
        "robust, worst class": bars[0],
        f"mean robust, {mean:.1f} %": line,
    }
    if is_worst.all():
        del entries["robust, with 95 % interval"]
    figure = ax.figure
    assert figure is not None
    ax.legend(
        entries.values(),
        entries.keys(),
        loc="upper right",  # under the names too, where there is room
        bbox_to_anchor=(1.0, 0.0),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -34 / 72, figure.dpi_scale_trans),
        ncols=2,
        frameon=False,
        fontsize="small",
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylabel("class" if len(shown) == len(measured) else f"the {len(shown)} weakest of {len(measured)} classes")
    return ax


def models_by_class(result: AuditResult, models: Sequence[str] | None = None, attack: str = WORST_CASE) -> Figure:
    """Draw :func:`class_accuracy` for models of an audit side by side, on one scale.

    Args:
        result: The audit.
        models: Which models; all if absent.
        attack: The attack to draw.

    Returns:
        A figure of its own, not known to pyplot.
    """
    drawn = result.models if models is None else tuple(models)
    n_classes = min(len(result.classes), _MOST_CLASSES)
    columns = min(len(drawn), 2)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(5.2 * columns, _height(n_classes) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for model, ax in zip(drawn, axes.flat, strict=False):
        class_accuracy(result.class_table(model, attack), ax, title=model)
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    return figure


def to_svg(figure: Figure, prefix: str = "") -> str:
    """Return the figure as an SVG element with real text, the same bytes each time.

    Args:
        figure: The figure.
        prefix: Put before each id, so that several figures can stand on one page.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "art-classwise", "font.family": "sans-serif"}):
        _save(figure, buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text[text.index("<svg") :])


def to_png(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file of 150 dots per inch."""
    _save(figure, path, format="png", dpi=150)


def _save(figure: Figure, target: io.StringIO | Path, **options: Any) -> None:
    with warnings.catch_warnings():
        # Names in other scripts: a browser has a font for them, and a picture shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(target, **options)


def _height(n_classes: int) -> float:
    return 1.5 + 0.26 * n_classes


def _label(text: str, length: int = 24) -> str:
    return shorten(text, length).replace("$", r"\$")  # which would start mathematics
