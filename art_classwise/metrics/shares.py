"""Accuracies of examples that are each asked several times: a share of 1 for each, in place of right or wrong.

An image that withstands one corruption mostly withstands the next, so that 75 of them aren't 75 images. Here the image
is what is drawn, with the share that it is right under; intervals then allow for it being in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtrc, ndtri, stdtrit

from art_classwise._core.labels import check_labels, class_names
from art_classwise.errors import InputError, check_number, check_seed, check_whole
from art_classwise.metrics.intervals import wilson

__all__ = ["check_shares", "class_shares", "mean_share", "share_test", "worst_share"]

Floats = npt.NDArray[np.float64]


def check_shares(y: npt.ArrayLike, shares: npt.ArrayLike, n_classes: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return true labels as int64 (n,) and shares as float64 (n,), n at least 1.

    Raises:
        InputError: There are no labels, one is no class, or there aren't n shares from 0 to 1.
    """
    values = np.asarray(shares, dtype=np.float64)
    n = len(np.atleast_1d(np.asarray(y)))
    if n == 0:
        raise InputError("There are no labels: a metric needs at least one example.")
    if values.shape != (n,) or not ((values >= 0) & (values <= 1 + 1e-9)).all():
        raise InputError(f"`shares` must be {n} numbers from 0 to 1, one for each label.")
    return check_labels(y, n, n_classes), values.clip(0, 1)


def class_shares(
    y: npt.ArrayLike,
    shares: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the mean share of each class with its interval.

    The interval is Wilson's for as many examples as would give a share of this size the variance that the mean has
    (Korn and Graubard 1998, Survey Methodology 24, 193-201, do so with Clopper and Pearson's, and lessen the number for
    the variance being estimated). It is never wider than if each example were right under all or none.

    Args:
        y: True labels, ints (n,).
        shares: Of each example the share of the times that it is right, (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the interval.

    Returns:
        A row per class, in their order: ``n``, the number of examples, ``accuracy``, ``low``, ``high`` (fractions). A
        class without examples has n = 0 and NaN.

    Raises:
        InputError: Labels and shares don't fit, or an option is out of range.

    Example:
        >>> class_shares([0, 0, 1, 1], [0.5, 0.7, 1.0, 1.0], 2)[["n", "accuracy"]]
               n  accuracy
        class
        0      2       0.6
        1      2       1.0
    """
    truth, values = check_shares(y, shares, n_classes)
    n, mean, within = _moments(truth, values, n_classes)
    low, high = _ends(n, mean, within, confidence)
    names = class_names(classes, n_classes)
    return pd.DataFrame({"n": n, "accuracy": mean, "low": low, "high": high}, index=pd.Index(names, name="class"))


def mean_share(
    y: npt.ArrayLike, shares: npt.ArrayLike, n_classes: int, *, confidence: float = 0.95
) -> pd.Series[float]:
    """Return the mean of :func:`class_shares`, each class counting alike, with its interval.

    Args:
        y: True labels, ints (n,).
        shares: Of each example the share of the times that it is right, (n,).
        n_classes: Number of classes, C.
        confidence: Coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high``: fractions. Classes without examples don't count.

    Raises:
        InputError: As for :func:`class_shares`.
    """
    truth, values = check_shares(y, shares, n_classes)
    n, means, within = (
        column[np.bincount(truth, minlength=n_classes) > 0] for column in _moments(truth, values, n_classes)
    )
    mean, variance = float(means.mean()), float((within / n).sum()) / len(n) ** 2
    spread, least = mean * (1 - mean), len(n) ** 2 / float((1 / n).sum())
    size = least if spread <= 0 else max(least, spread / variance * _known(n.sum() - len(n), confidence))
    low, high = wilson(mean * size, size, confidence)
    return pd.Series({"mean": mean, "low": float(low), "high": float(high)})


def worst_share(
    y: npt.ArrayLike,
    shares: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    repeats: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.Series[Any]:
    """Estimate the mean share of the worst class, as :func:`art_classwise.metrics.worst_class` does its accuracy.

    The class that is worst on a random half of the examples is measured on the other half, both in turn, and the mean
    over many splits is the estimate. The interval is for the truly worst class: its low end is the smallest of the
    classes' own, for it can only be too high where that class's own is; its high end is the smallest of theirs at a
    level that holds for all at once (Bonferroni).

    Args:
        y: True labels, ints (n,).
        shares: Of each example the share of the times that it is right, (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        repeats: Number of random splits.
        confidence: Coverage of the interval.
        seed: Of the splits.

    Returns:
        ``accuracy``, ``low``, ``high``; ``naive``, the plain minimum; ``class``, the one that has it. Classes with a
        single example are left out.

    Raises:
        InputError: No class has two examples; or as for :func:`class_shares`.
    """
    check_whole("repeats", repeats, 1)
    check_seed(seed)
    truth, values = check_shares(y, shares, n_classes)
    n, mean, within = _moments(truth, values, n_classes)
    large = np.flatnonzero(n >= 2)
    if len(large) == 0:
        raise InputError("No class has 2 examples: one half chooses the worst class, and the other measures it.")
    lows = _ends(n[large], mean[large], within[large], confidence)[0]
    highs = _ends(n[large], mean[large], within[large], 1 - (1 - confidence) / len(large))[1]
    measured = min(_split(truth, values, n, large, repeats, seed), float(mean[large].mean()))
    return pd.Series(
        {
            "accuracy": measured,
            "low": min(float(lows.min()), measured),
            "high": max(float(highs.min()), measured),
            "naive": float(mean[large].min()),
            "class": class_names(classes, n_classes)[large[mean[large].argmin()]],
        },
        dtype=object,
    )


def share_test(y: npt.ArrayLike, shares: npt.ArrayLike, n_classes: int) -> float:
    """Return the p value of equal mean shares in all classes, by a one-way analysis of variance (Fisher's F).

    Args:
        y: True labels, ints (n,).
        shares: Of each example the share of the times that it is right, (n,).
        n_classes: Number of classes, C.

    Raises:
        InputError: Fewer than two classes have examples; or as for :func:`class_shares`.
    """
    truth, values = check_shares(y, shares, n_classes)
    n = np.bincount(truth, minlength=n_classes)
    between, within = int((n > 0).sum()) - 1, len(truth) - int((n > 0).sum())
    if between < 1:
        raise InputError("All examples are of one class: a difference needs two classes with examples.")
    means = np.bincount(truth, values, n_classes) / np.maximum(n, 1)
    apart = float((n * (means - values.mean()) ** 2).sum())
    inside = float(((values - means[truth]) ** 2).sum())
    if within < 1 or inside <= 1e-15:
        return 1.0 if within < 1 or apart <= 1e-15 else 0.0
    return float(fdtrc(between, within, (apart / between) / (inside / within)))


def _moments(y: npt.NDArray[np.int64], values: Floats, n_classes: int) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Return numbers, means and variances of each class, (C,) each, NaN where there are no examples.

    A class of one example takes the variance of all classes pooled; and one more example, right under all or none, is
    spread over each: shares that are all alike don't tell the mean for certain.
    """
    n = np.bincount(y, minlength=n_classes)
    mean = np.bincount(y, values, n_classes) / np.where(n > 0, n, np.nan)
    squares = np.bincount(y, (values - mean[y]) ** 2, n_classes)
    free = np.maximum(n - 1, 0)
    pooled = squares.sum() / free.sum() if free.any() else float((mean * (1 - mean))[n > 0].mean())
    variance = np.where(free > 0, squares / np.maximum(free, 1), pooled) + mean * (1 - mean) / np.maximum(n, 1)
    return n, mean, variance


def _ends(n: npt.NDArray[np.int64], mean: Floats, variance: Floats, confidence: float) -> tuple[Floats, Floats]:
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    spread = mean * (1 - mean)
    known = np.array([_known(size - 1, confidence) for size in n])
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where((spread > 0) & (n > 1), np.maximum(n, n * spread / variance * known), n)
    return wilson(np.nan_to_num(mean) * size, size, confidence)


def _known(free: float, confidence: float) -> float:
    """Return by what a number of examples is lessened for their variance being estimated: (z / t)^2."""
    at = 0.5 + confidence / 2
    return float((ndtri(at) / stdtrit(free, at)) ** 2) if free >= 1 else 0.0


def _split(
    y: npt.NDArray[np.int64],
    values: Floats,
    n: npt.NDArray[np.int64],
    large: npt.NDArray[np.int64],
    repeats: int,
    seed: int,
) -> float:
    """Return the mean share of the class chosen on the other half."""
    rng, half = np.random.default_rng(seed), n // 2
    begin = np.concatenate([[0], np.cumsum(n)[:-1]])
    total, measured = np.bincount(y, values, len(n)), 0.0
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(y)), y))
        of = y[order]
        chosen = np.arange(len(y)) - begin[of] < half[of]
        first = np.bincount(of[chosen], values[order][chosen], len(n))[large]
        one, other = first / half[large], (total[large] - first) / (n - half)[large]
        for seen, unseen in ((one, other), (other, one)):
            measured += float(unseen[seen.argmin()]) / (2 * repeats)
    return measured
