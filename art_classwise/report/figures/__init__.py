"""Figures: each takes outcomes or tables and an optional ``ax``, and returns the axes; and figures as files."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_classwise._core.files import output_file
from art_classwise.errors import InputError
from art_classwise.report.figures import classes, curves, matrices, radii
from art_classwise.report.figures.certified import certified_by_radius
from art_classwise.report.figures.gallery import gallery
from art_classwise.report.figures.layout import CLEAN, ROBUST, WORST

__all__ = [
    "CLEAN",
    "ROBUST",
    "WORST",
    "accuracy_by_radius",
    "attack_strength",
    "certified_by_radius",
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

_P = ParamSpec("_P")
_Drawn = TypeVar("_Drawn", Axes, Figure)
_roots: WeakKeyDictionary[Figure, list[str]] = WeakKeyDictionary()


def _of_audit(draw: Callable[_P, _Drawn]) -> Callable[_P, _Drawn]:
    """Let a figure know the root digests of the audits whose table it is drawn from, for its file."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _Drawn:
        made = draw(*args, **kwargs)
        figure = made if isinstance(made, Figure) else made.figure
        for value in (*args, *kwargs.values()):
            found = getattr(value, "attrs", {}).get("roots") or getattr(value, "roots", None)
            if found and isinstance(figure, Figure):
                held = _roots.setdefault(figure, [])
                held += [root for root in found if root not in held]
        return made

    return drawn


class_accuracy = _of_audit(classes.class_accuracy)
class_histogram = _of_audit(classes.class_histogram)
compared = _of_audit(classes.compared)
homing = _of_audit(classes.homing)
models_by_class = _of_audit(classes.models_by_class)
accuracy_by_radius = _of_audit(curves.accuracy_by_radius)
attack_strength = _of_audit(curves.attack_strength)
training_curves = curves.training_curves
weight_norms = curves.weight_norms
class_by_attack = _of_audit(matrices.class_by_attack)
confusion = _of_audit(matrices.confusion)
group_confusion = _of_audit(matrices.group_confusion)
models_by_radius = _of_audit(radii.models_by_radius)

_FIXED: dict[Any, Any] = {
    "svg.hashsalt": "art-classwise",
    "pdf.fonttype": 42,
}  # 42: letters stay letters, to be searched and edited
_SVG: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif"}


def save(figure: Figure | Axes, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PDF, SVG or PNG file, by the ending of its name; the folder is made if missing.

    PDF and SVG hold text as text; PNG has 200 dots per inch. The bytes are the same each time. The root digest of the
    audit that a figure is of, if it has one (:attr:`art_classwise.AuditResult.roots`), is in the file's metadata: PNG's
    Source, PDF's Subject, SVG's ``dc:identifier``.

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
            told = _told(whole)
            of = {".pdf": {"CreationDate": None, "Subject": told}, ".png": {"Source": told} if told else {}}[ending]
            _write(whole, aside, format=ending[1:], dpi=200, bbox_inches="tight", metadata=of)


def _told(figure: Figure) -> str | None:
    roots = _roots.get(figure, [])
    return f"art-classwise audit, root digest {', '.join(roots)}" if roots else None


def to_svg(figure: Figure, prefix: str = "") -> str:
    """Return the figure as an SVG element with real text, the same bytes each time.

    Args:
        figure: The figure.
        prefix: Put before each id, so that several figures can stand on one page.
    """
    buffer = io.StringIO()
    metadata: dict[str, str | None] = {"Date": None, "Creator": None}
    if (told := _told(figure)) is not None:
        metadata["Identifier"] = told
    with mpl.rc_context(_SVG):
        _write(figure, buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text[text.index("<svg") :])


def _write(figure: Figure, target: io.StringIO | Path, **options: Any) -> None:
    with warnings.catch_warnings(), mpl.rc_context(_FIXED):
        # Names in other scripts: a browser has a font for them, and a picture shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(target, **options)
