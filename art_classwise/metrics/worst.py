"""The worst class, without the bias of a minimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, betaincinv

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError, check_number, check_seed, check_whole
from art_classwise.metrics._inputs import check_outcomes

__all__ = ["worst_class", "worst_interval"]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def worst_class(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    repeats: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.Series[Any]:
    """Estimate the accuracy of the worst class.

    The smallest of several noisy accuracies is too low: the class that looks worst had bad luck, too. So the examples
    of each class are split at random into halves; the class that is worst on one half is measured on the other, both
    in turn, and the mean over many splits is the estimate: the accuracy of a class *on the half it wasn't chosen on*.
    That is the worst class's where one class is far below or all are equal. Elsewhere the choice on half of the
    examples misses the worst class at times, and the estimate is too high: by 0.6 points with 10 classes of 1,000, but
    by 8 with 100 classes of 100 that are close together. The interval holds all the same.

    The interval is for the accuracy of the truly worst class. It is computed from the counts of all examples, not
    from the splits, and covers at least as often as it says, whatever the accuracies:

    - Low end: the smallest of the classes' own exact lower ends (Clopper and Pearson 1934). This can only be too high
      where the truly worst class's own end is, so the number of classes costs nothing.
    - High end: the largest accuracy of the worst class with which so low a minimum still comes about. Each class
      counts as no better than that, or than its own lower end (simultaneous, for a tenth of the error), if this is
      higher: classes that are clearly better don't widen it (the two steps of Romano, Shaikh and Wolf 2014).

    It takes the examples as independent. Classes with fewer than 2 examples can't be split and are left out of all.

    Args:
        y: True labels, ints (n,).
        correct: Whether each example is right, bool (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        repeats: Number of random splits.
        confidence: Coverage of the interval.
        seed: Of the splits.

    Returns:
        ``accuracy``, the estimate, and its ``low`` and ``high`` (widened to hold the estimate, should it lie outside);
        ``naive``, the plain minimum (fractions); ``class``, the one chosen most often, of equals the first;
        ``chosen``, the share of choices that fell on it, where classes that tie share one.

    Raises:
        InputError: No class has 2 examples, labels and outcomes don't fit, there are no examples, names are not as
            many as classes, or an option is out of range.

    Example:
        >>> y = [0] * 100 + [1] * 100
        >>> worst = worst_class(y, [True] * 80 + [False] * 20 + [True] * 30 + [False] * 70, 2, classes=["car", "cat"])
        >>> print(worst["class"], worst["chosen"], round(worst["accuracy"], 3))
        cat 1.0 0.3
    """
    check_whole("repeats", repeats, 1)
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_seed(seed)
    truth, right = check_outcomes(y, correct, n_classes)
    names = class_names(classes, n_classes)
    n = np.bincount(truth, minlength=n_classes)
    k = np.bincount(truth[right], minlength=n_classes)
    large = np.flatnonzero(n >= 2)
    if len(large) == 0:
        raise InputError("No class has 2 examples: one half chooses the worst class, and the other measures it.")
    n, k = n[large], k[large]
    measured, chosen = _split(k, n, repeats, np.random.default_rng(seed))
    low, high = worst_interval(k, n, 1 - confidence)
    return pd.Series(
        {
            "accuracy": measured,
            "low": min(low, measured),
            "high": max(high, measured),
            "naive": float((k / n).min()),
            "class": names[large[chosen.argmax()]],
            "chosen": float(chosen.max()),
        },
        dtype=object,  # a class that is a number stays one
    )


def _split(k: Counts, n: Counts, repeats: int, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return the accuracy of the class chosen on the other half, and the share of choices of each class (C,)."""
    n_first = n // 2
    first = rng.hypergeometric(k, n - k, n_first, (repeats, len(n)))  # all that a split changes is this count
    one, other = first / n_first, (k - first) / (n - n_first)
    measured, chosen = 0.0, np.zeros(len(n))
    for seen, unseen in ((one, other), (other, one)):
        lowest = seen == seen.min(1, keepdims=True)
        weight = lowest / lowest.sum(1, keepdims=True)  # the mean over ties in place of a draw among them
        measured += float((weight * unseen).sum()) / (2 * repeats)
        chosen = chosen + weight.sum(0) / (2 * repeats)
    return measured, chosen


def worst_interval(k: Counts, n: Counts, alpha: float) -> tuple[float, float]:
    """Return both ends of the exact interval for the smallest of C proportions, alpha / 2 to each side."""
    low = float(_lower(k, n, alpha / 2).min())
    if np.all(k == n):
        return low, 1.0
    first, second = alpha / 20, alpha * 9 / 20
    floor, level = _lower(k, n, first / len(n)), second / len(n)
    # A class's upper end at a level that serves for all says how bad it looks, whatever its number of examples.
    top = float((1 - _lower(n - k, n, level)).min())
    # The largest count of each class with which it would look as bad; -1 if none.
    count, beyond = np.full_like(n, -1), n
    while np.any(beyond - count > 1):
        middle = (count + beyond) // 2
        so_bad = _at_most(middle, n, top) <= level * (1 + 1e-6)  # its own count is at the level, but for rounding
        count, beyond = np.where(so_bad, middle, count), np.where(so_bad, beyond, middle)
    below, high = 0.0, top
    for _ in range(50):
        accuracy = (below + high) / 2
        # How likely a class looks as bad, if the worst has this accuracy.
        as_low = 1 - np.prod(1 - _at_most(count, n, np.maximum(floor, accuracy)))
        below, high = (accuracy, high) if as_low > second else (below, accuracy)
    return low, high


def _at_most(k: Counts, n: Counts, p: float | Floats) -> Floats:
    """Return the probability of at most k successes in n trials, for k from -1 to n - 1."""
    probability: Floats = np.where(k < 0, 0, betainc(n - k, np.maximum(k, 0) + 1, 1 - p))
    return probability


def _lower(k: Counts, n: Counts, alpha: float) -> Floats:
    """Return Clopper and Pearson's lower ends, each too high with probability alpha at most."""
    ends: Floats = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0)
    return ends
