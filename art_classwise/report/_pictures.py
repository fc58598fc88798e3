"""Pictures within a notebook's displays."""

from __future__ import annotations

import base64
import io
import zlib
from html import escape

import numpy as np

from art_classwise.audit.result import AuditResult
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError
from art_classwise.report._text import printable, shorten

__all__ = ["classes_picture", "examples_picture"]

_MOST_EXAMPLES = 10
_SIDE = 48  # pixels

# The figures' black words need a light ground in a dark notebook, too.
_PAPER = "background:#fff;color:#000;border-radius:4px;padding:.5em;max-width:max-content;overflow-x:auto"


def classes_picture(result: AuditResult) -> str:
    """Return the class accuracies of all models of an audit as an SVG figure; nothing if there is nothing to draw."""
    from art_classwise.report import figures

    held = b"".join(result.class_table(name).to_csv().encode(errors="replace") for name in result.models)
    prefix = f"acw{zlib.crc32(held):08x}-"  # several displays stand on one page
    try:
        svg = figures.to_svg(figures.models_by_class(result), prefix)
    except InputError:  # no class has an example
        return ""
    svg = svg.replace("<svg ", '<svg style="max-width:100%;height:auto" role="img" ', 1)
    return f'<div style="{_PAPER}">{svg}</div>'


def examples_picture(data: Dataset) -> str:
    """Return the first example of each of up to ten classes; nothing if one can't be read."""
    from PIL import Image

    shown = []
    for k in np.unique(data.y)[:_MOST_EXAMPLES]:
        try:
            pixels = data.x[int((data.y == k).argmax())]
        except InputError:  # a file that isn't readable: what uses the data says so
            return ""
        if pixels.shape[0] not in (1, 3):
            return ""
        levels = (255 * np.asarray(pixels)).round().astype(np.uint8).transpose(1, 2, 0)
        image = Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
        image.thumbnail((2 * _SIDE, 2 * _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "png")
        source = base64.b64encode(buffer.getvalue()).decode()
        name = escape(printable(shorten(data.classes[k], 10)), quote=True)
        shown.append(
            '<figure style="display:inline-block;margin:.2em .5em .2em 0;text-align:center;font-size:80%">'
            f'<img alt="an example of {name}" src="data:image/png;base64,{source}" width="{_SIDE}" height="{_SIDE}" '
            f'style="image-rendering:pixelated;object-fit:contain"><figcaption>{name}</figcaption></figure>'
        )
    return f"<div>{''.join(shown)}</div>"
