"""Examples: clean image, perturbation, adversarial image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_positive
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import (
    ROBUST,
    SMALL,
    canvas,
    caption,
    fit,
    mark,
    name_room,
    points,
    slot,
    text_width,
    widest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gallery"]

_MOST = 8


@in_any_script
def gallery(
    x: npt.ArrayLike,
    x_adv: npt.ArrayLike,
    y: npt.ArrayLike,
    prediction: npt.ArrayLike,
    ax: Axes | None = None,
    *,
    classes: Sequence[str],
    clean_prediction: npt.ArrayLike | None = None,
    scale: float | None = None,
    title: str = "",
) -> Axes:
    """Draw examples in rows: the clean image, the perturbation, scaled and around grey, and the adversarial image.

    On the left stands the true class, on the right what the model sees under attack. Of more than eight examples the
    first eight are drawn.

    Args:
        x: Clean images, (n, C, H, W), floats in [0, 1], of one channel (grey) or three (colour).
        x_adv: What an attack made of them, the same shape.
        y: True labels, ints (n,).
        prediction: Labels predicted under attack, ints (n,).
        ax: Where to draw; a new figure of fitting size if absent.
        classes: Names of the classes.
        clean_prediction: Labels predicted without attack, ints (n,); where they are wrong, it is said on the left.
        scale: By what the perturbation is multiplied; if absent, the largest whole number at which none that is drawn
            is cut off.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: Shapes differ or are no images', values lie outside of [0, 1], or a label is no class.
    """
    clean, adversarial = _images("x", x), _images("x_adv", x_adv)
    if clean.shape != adversarial.shape:
        raise InputError(f"`x` and `x_adv` differ in shape: {clean.shape} and {adversarial.shape}.")
    truth, attacked, natural = (
        check_labels(given, len(clean), len(classes), y_name=name)
        for name, given in (
            ("y", y),
            ("prediction", prediction),
            ("clean_prediction", y if clean_prediction is None else clean_prediction),
        )
    )
    n_given, most = len(clean), _most(ax)
    clean, adversarial = clean[:most], adversarial[:most]
    truth, attacked, natural = truth[:most], attacked[:most], natural[:most]
    delta = adversarial - clean
    largest = float(np.abs(delta).max())
    if scale is None:
        # Less a rounding error: 0.5 / (8 / 255) in float32 may be a little off.
        scale = max(float(np.floor(0.5 / largest + 1e-4)), 1.0) if largest > 0 else 1.0
    check_positive("scale", scale)
    columns = [clean, np.clip(0.5 + scale * delta, 0, 1), adversarial]
    room = name_room(ax, 12)
    names = [
        fit(classes[t], room) if t == s else f"{fit(classes[t], room)}\n(seen as {fit(classes[s], 0.6 * room)})"
        for t, s in zip(truth, natural, strict=True)
    ]
    outcome = [fit(classes[f], room) for f in attacked]
    left, right = (widest(line for name in of for line in name.split("\n")) for of in (names, outcome))
    right = max(right, text_width("(withstands)")) + points(0.6)
    n = len(clean)
    ax = canvas(ax, 4, 1.3 + 1.05 * n, left + right)
    _, _, height, width = clean.shape
    gap_y, gap_x = _gap(height), _gap(width)
    ax.imshow(_mosaic(columns), interpolation="nearest")
    size = min(SMALL, 0.3 * slot(ax, left + right)[0] / text_width("perturbation", 1))
    heads = ["clean", f"perturbation\n\N{MULTIPLICATION SIGN} {scale:g}, on grey", "adversarial"]
    ax.set_xticks((width + gap_x) * np.arange(3) + (width - 1) / 2, heads, fontsize=points(size))
    rows = (height + gap_y) * np.arange(n) + (height - 1) / 2
    ax.set_yticks(rows, names, fontsize=points(SMALL))
    for row, t, f, name in zip(rows, truth, attacked, outcome, strict=True):
        text = ax.annotate(
            f"{name}\n(withstands)" if t == f else name,
            (1, row),
            xycoords=ax.get_yaxis_transform(),
            xytext=(points(0.6), 0),
            textcoords="offset points",
            va="center",
            fontsize=points(SMALL),
            color=ROBUST,
        )
        if t != f:
            mark(text)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    right_ones = int((truth == attacked).sum())
    which = f"the first {n} of {n_given:,} examples" if n < n_given else f"{n} example{'s' * (n > 1)}"
    caption(ax, title, f"{which}: {right_ones} classified correctly under attack", left=left, right=right)
    return ax


def _images(name: str, given: Any) -> npt.NDArray[np.float64]:
    images = np.asarray(given)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"`{name}` must be images (n, 1 or 3, H, W), but has shape {images.shape}.")
    if not np.issubdtype(images.dtype, np.floating) or not ((images >= 0) & (images <= 1)).all():
        raise InputError(
            f"`{name}` must hold floats in [0, 1], but holds {images.dtype} from {images.min():g} to "
            f"{images.max():g}: divide bytes by 255."
        )
    return images.astype(np.float64)


def _most(ax: Axes | None) -> int:
    """Return how many rows there is room for: two lines of text stand beside each."""
    return _MOST if ax is None else min(_MOST, max(int(slot(ax, 0)[1] / points(2.6)), 1))


def _gap(side: int) -> int:
    return max(side // 12, 1)


def _mosaic(columns: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return images (n, C, H, W) of each column below and beside each other on white: (rows, columns, 3)."""
    n, _, height, width = columns[0].shape
    gap_y, gap_x = _gap(height), _gap(width)
    whole = np.ones((n * (height + gap_y) - gap_y, len(columns) * (width + gap_x) - gap_x, 3))
    for j, images in enumerate(columns):
        for i, image in enumerate(images):
            top, left = i * (height + gap_y), j * (width + gap_x)
            whole[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return whole
