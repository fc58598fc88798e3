"""Examples: clean, what was added, adversarial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from art_classwise._labels import check_labels
from art_classwise.errors import InputError
from art_classwise.report.figures._style import canvas, headline, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gallery"]

_MOST = 8


def gallery(
    x: npt.ArrayLike,
    x_adv: npt.ArrayLike,
    y: npt.ArrayLike,
    prediction: npt.ArrayLike,
    ax: Axes | None = None,
    *,
    classes: Sequence[str],
    scale: float | None = None,
    title: str = "",
) -> Axes:
    """Draw examples in rows: the clean image, the perturbation, scaled and around grey, and the adversarial image.

    Args:
        x: Clean images, (n, C, H, W) in [0, 1], grey or in colour. The first eight are drawn.
        x_adv: What an attack made of them, the same shape.
        y: True labels, ints (n,).
        prediction: Labels predicted under attack, ints (n,).
        ax: Where to draw; a new figure of fitting size if absent.
        classes: Names of the classes.
        scale: By what the perturbation is multiplied; the largest whole number that keeps it in range if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: Shapes differ or are no images', values lie outside of [0, 1], or a label is no class.
    """
    clean, adversarial = np.asarray(x, np.float64), np.asarray(x_adv, np.float64)
    if clean.ndim != 4 or clean.shape[1] not in (1, 3) or clean.shape != adversarial.shape or len(clean) == 0:
        raise InputError(
            "`x` and `x_adv` must be images (n, 1 or 3, H, W) of one shape, but have shapes "
            f"{clean.shape} and {adversarial.shape}."
        )
    truth = check_labels(y, len(clean), len(classes))[:_MOST]
    found = check_labels(prediction, len(clean), len(classes), y_name="prediction")[:_MOST]
    clean, adversarial = clean[:_MOST], adversarial[:_MOST]
    delta = adversarial - clean
    largest = float(np.abs(delta).max())
    factor = scale or (max(np.floor(0.5 / largest), 1) if largest else 1)
    columns = [clean, np.clip(0.5 + factor * delta, 0, 1), adversarial]
    n, _, height, width = clean.shape
    ax = canvas(ax, 5.6, 1 + 1.1 * n)
    mosaic = np.concatenate([np.concatenate(list(c.transpose(0, 2, 3, 1)), axis=0) for c in columns], axis=1)
    ax.imshow(np.broadcast_to(mosaic, (*mosaic.shape[:2], 3)), interpolation="nearest")
    heads = ["clean", f"perturbation \N{MULTIPLICATION SIGN} {factor:g}", "adversarial"]
    ax.set_xticks(width * (np.arange(3) + 0.5) - 0.5, heads)
    names = [f"{label(classes[a])}\n→ {label(classes[b])}" for a, b in zip(truth, found, strict=True)]
    ax.set_yticks(height * (np.arange(n) + 0.5) - 0.5, names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    headline(ax, title)
    return ax
