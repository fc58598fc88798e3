"""Robust accuracy at every radius, from the smallest perturbation that changes each example's class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtr

from art_classwise._core.arrays import as_array
from art_classwise._core.labels import check_labels, class_names
from art_classwise.errors import InputError, as_float, check_number, shown
from art_classwise.metrics.accuracy import class_counts

__all__ = ["check_radii", "check_radius", "class_distances", "robust_at"]


def robust_at(
    y: npt.ArrayLike,
    distance: npt.ArrayLike,
    n_classes: int,
    eps: float | Sequence[float],
    *,
    searched: float = math.inf,
    smallest: npt.ArrayLike = 0.0,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the robust accuracy of each class at each radius: the share of examples whose distance is above it.

    Args:
        y: True labels, ints (n,).
        distance: The smallest perturbation found that changes each example's class, (n,); 0 for examples that are
            wrong without one, infinite where none was found.
        n_classes: Number of classes, C.
        eps: Radii of at least 0, rising, in the units of the distances.
        searched: The largest perturbation that was looked for.
        smallest: (n,), or one number: below it nothing was looked for, so that an example is known to be broken from
            its ``distance`` on alone.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the Wilson intervals.

    Returns:
        Indexed by ``eps`` and ``class``: ``n``, ``robust``, ``low``, ``high``, and ``unknown``: why they are NaN, empty
        where they aren't. A radius beyond ``searched`` is unknown; so is one below ``smallest`` of an example of the
        class.

    Raises:
        InputError: The radii aren't numbers of at least 0 that rise, labels and distances don't fit, distances are
            negative or NaN, or ``searched`` or ``smallest`` is out of range.

    Example:
        >>> table = robust_at([0, 0, 1, 1], [0.1, 0.3, 0.0, 0.2], 2, [0.1, 0.2])
        >>> table["robust"].tolist()
        [0.5, 0.5, 0.5, 0.0]
    """
    radii = check_radii(eps)
    label, size = _checked(y, distance, n_classes)
    check_number("searched", searched, 0, math.inf, words="of at least 0")
    least = np.asarray(as_array(smallest, "smallest"), dtype=np.float64)
    if least.shape not in ((), size.shape) or not (least >= 0).all():
        raise InputError("`smallest` must be one number of at least 0, or one per example.")
    least = np.broadcast_to(least, size.shape)
    tables = []
    for radius in radii:
        table = class_counts(label, size > radius, n_classes, classes=classes, confidence=confidence)
        table = table.rename(columns={"accuracy": "robust"}).assign(unknown="")
        unsure = np.bincount(label[(radius < least) & (size > radius)], minlength=n_classes) > 0
        why = "examples were broken by other attacks, and not attacked with smaller perturbations"
        if radius > searched:
            unsure, why = np.ones(n_classes, dtype=bool), f"beyond {searched:g}, the largest perturbation looked for"
        elif radius == 0:
            unsure = np.zeros(n_classes, dtype=bool)
        table.loc[unsure, ["robust", "low", "high"]] = np.nan
        table.loc[unsure, "unknown"] = why
        tables.append(table)
    return pd.concat(tables, keys=radii, names=["eps"])


def class_distances(
    y: npt.ArrayLike,
    distance: npt.ArrayLike,
    n_classes: int,
    *,
    searched: float = math.inf,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how far away from misclassification the examples of each class are.

    Args:
        y: True labels, ints (n,).
        distance: As for :func:`robust_at`.
        n_classes: Number of classes, C.
        searched: The largest perturbation that was looked for.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the intervals.

    Returns:
        Indexed by ``class``: ``n``; ``right``, how many of them are right without perturbation; ``median`` of these
        examples' distances, with ``low`` and ``high``, an interval by order statistics, which needs no assumption
        (David and Nagaraja 2003, section 7.1); ``half``, the radius at which the class's robust accuracy falls to one
        half or less, with ``half_low`` and ``half_high``: 0 where it is no more without attack. NaN where the class
        has no such example, or where it lies beyond ``searched`` or any perturbation found.

    Raises:
        InputError: Labels and distances don't fit, distances are negative or NaN, or ``searched`` is.

    Example:
        >>> class_distances([0, 0, 0, 1], [0.0, 0.2, 0.4, 0.1], 2)[["n", "right", "median", "half"]]
               n  right  median  half
        class
        0      3      2     0.3   0.2
        1      1      1     0.1   0.1
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    label, size = _checked(y, distance, n_classes)
    check_number("searched", searched, 0, math.inf, words="of at least 0")
    size = np.where(size > searched, np.inf, size)
    rows = []
    for k in range(n_classes):
        of = np.sort(size[label == k])
        right = of[of > 0]
        median, low, high = _median(right, confidence)
        # The share above the radius is at most 1/2 from the distance of rank ceil(n / 2) on.
        half = float(of[math.ceil(len(of) / 2) - 1]) if len(of) else math.nan
        _, half_low, half_high = _median(of, confidence)
        row = {"n": len(of), "right": len(right), "median": median, "low": low, "high": high}
        rows.append(row | {"half": half, "half_low": half_low, "half_high": half_high})
    table = pd.DataFrame(rows, index=pd.Index(class_names(classes, n_classes), name="class"))
    ends = [name for name in table.columns if name not in ("n", "right")]
    table[ends] = table[ends].where(np.isfinite(table[ends]))
    return table


def check_radius(radius: float, name: str = "radius") -> float:
    """Return one radius.

    Args:
        radius: What was given.
        name: Of the argument.

    Raises:
        InputError: It is no finite number of at least 0, or there are several.
    """
    return float(check_number(name, radius, 0, math.inf, below=True, words="of at least 0, and finite"))


def check_radii(eps: float | Sequence[float], name: str = "eps") -> list[float]:
    """Return radii as a list.

    Args:
        eps: What was given: a number, or several.
        name: Of the argument.

    Raises:
        InputError: There is none, one is no finite number of at least 0, or they don't rise.
    """
    plain: Any = eps.tolist() if hasattr(eps, "tolist") else eps  # arrays, tensors and series, of one number or several
    given = [plain] if np.ndim(plain) == 0 or isinstance(plain, str) else list(plain)
    radii = [as_float(one) for one in given]
    wrong = [one for one, radius in zip(given, radii, strict=True) if not 0 <= radius < math.inf]
    if wrong or not radii:
        given_one = shown(wrong[0] if wrong else eps)
        raise InputError(f"`{name}` must be radii of at least 0, such as [2 / 255, 4 / 255], but got {given_one}.")
    for before, radius in pairwise(radii):
        if radius <= before:
            raise InputError(f"`{name}` must rise, but {radius:g} follows {before:g}: give sorted radii, each once.")
    return radii


def _checked(
    y: npt.ArrayLike, distance: npt.ArrayLike, n_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    size = np.asarray(as_array(distance, "distance"), dtype=np.float64)
    if size.ndim != 1 or not (size >= 0).all():
        raise InputError("`distance` must have one number of at least 0 per example; infinity where none was found.")
    return check_labels(y, len(size), n_classes, x_name="distance"), size


def _median(ordered: npt.NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Return the median of sorted values, and an interval between two of them; infinite where few are too few."""
    n = len(ordered)
    if n == 0:
        return math.nan, math.nan, math.nan
    lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
    median = math.inf if math.isinf(upper) else float((lower + upper) / 2)
    # Ranks r and n + 1 - r hold the median between them with probability 1 - 2 P(B < r), B ~ Bin(n, 1/2).
    ranks = np.arange(1, n // 2 + 1)
    fits = ranks[2 * bdtr(ranks - 1, n, 0.5) <= 1 - confidence]
    if len(fits) == 0:
        return median, 0.0, math.inf
    rank = int(fits[-1])
    return median, float(ordered[rank - 1]), float(ordered[n - rank])
