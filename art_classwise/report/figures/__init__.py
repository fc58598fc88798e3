"""Figures: each takes outcomes or tables and an optional ``ax``, and returns the axes; and figures as files."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_classwise._core.files import output_file
from art_classwise.errors import InputError
from art_classwise.report.figures.classes import class_accuracy, class_histogram, compared, homing, models_by_class
from art_classwise.report.figures.curves import accuracy_by_radius, attack_strength, training_curves, weight_norms
from art_classwise.report.figures.gallery import gallery
from art_classwise.report.figures.layout import CLEAN, ROBUST, WORST
from art_classwise.report.figures.matrices import class_by_attack, confusion, group_confusion
from art_classwise.report.figures.radii import models_by_radius

__all__ = [
    "CLEAN",
    "ROBUST",
    "WORST",
    "accuracy_by_radius",
    "attack_strength",
    "class_accuracy",
    "class_by_attack",
    "class_histogram",
    "compared",
    "confusion",
    "gallery",
    "group_confusion",
    "homing",
    "models_by_class",
    "models_by_radius",
    "save",
    "to_svg",
    "training_curves",
    "weight_norms",
]

_FIXED: dict[Any, Any] = {
    "svg.hashsalt": "art-classwise",
    "pdf.fonttype": 42,
}  # 42: letters stay letters, to be searched and edited
_SVG: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif"}


def save(figure: Figure | Axes, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PDF, SVG or PNG file, by the ending of its name; the folder is made if missing.

    PDF and SVG hold text as text; PNG has 200 dots per inch. The bytes are the same each time.

    Args:
        figure: The figure, or any axes of it.
        path: A name that ends in .pdf, .svg or .png.

    Raises:
        InputError: It is no figure, the name has another ending, or the file can't be written.
    """
    whole = figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(whole, Figure):
        raise InputError(f"Only a matplotlib figure, or axes of one, can be saved, but got {figure!r:.60}.")
    ending = Path(path).suffix.lower()
    if ending not in (".pdf", ".svg", ".png"):
        raise InputError(f"A figure is saved as .pdf, .svg or .png, by the ending of its name, but got {str(path)!r}.")
    with output_file(path, "figure.pdf") as aside:
        if ending == ".svg":
            aside.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{to_svg(whole)}', encoding="utf-8")
        else:
            dates = {".pdf": {"CreationDate": None}, ".png": {}}[ending]
            _write(whole, aside, format=ending[1:], dpi=200, bbox_inches="tight", metadata=dates)


def to_svg(figure: Figure, prefix: str = "") -> str:
    """Return the figure as an SVG element with real text, the same bytes each time.

    Args:
        figure: The figure.
        prefix: Put before each id, so that several figures can stand on one page.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_SVG):
        _write(figure, buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text[text.index("<svg") :])


def _write(figure: Figure, target: io.StringIO | Path, **options: Any) -> None:
    with warnings.catch_warnings(), mpl.rc_context(_FIXED):
        # Names in other scripts: a browser has a font for them, and a picture shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(target, **options)
