"""Before attacking: how many examples it takes to tell two models apart on a class, and what a number of them tells."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_number, check_whole
from art_classwise.metrics.intervals import wilson

__all__ = ["detectable_difference", "power", "sample_size", "what_can_be_told"]

_MOST = 2**24  # examples of a class


def power(
    n: int, difference: float, *, discordant: float = 0.2, n_classes: int = 10, confidence: float = 0.95
) -> float:
    """Return how likely a difference of two models on one class is found, with n examples of it.

    Found means that :func:`paired_comparison` gives the class a ``p_adjusted`` of at most 1 - ``confidence`` where no
    other class differs: McNemar's exact test at that level divided by the number of classes. The number of examples on
    which the two differ is binomial, and among them the number for one of the two is, too; summed over both.

    Args:
        n: Examples of the class.
        difference: The difference of the true accuracies, a fraction, at most ``discordant``.
        discordant: The share of examples that one of the two gets right and the other doesn't, however it falls. Two
            attacks on a model, or two trainings of a recipe, differ on about 0.1, unlike models on 0.2 and more.
        n_classes: Number of classes that are tested.
        confidence: 1 less the probability of a false finding among all classes.

    Returns:
        A probability.

    Raises:
        InputError: An argument is out of range, or the difference exceeds ``discordant``.

    Example:
        >>> print(f"{power(500, 0.05, discordant=0.1):.2f}")
        0.75
    """
    from scipy.stats import binom  # half a second, which the other metrics needn't wait

    check_whole("n", n, 1)
    _check(difference, discordant, n_classes, confidence)
    # Almost all numbers of discordant examples, and of each the most that may be for the worse one.
    low, high = (int(end) for end in binom.interval(1 - 1e-9, n, discordant))
    number = np.arange(low, high + 1)
    level = (1 - confidence) / n_classes / 2
    most = np.asarray(binom.ppf(level, number, 0.5), np.int64)
    most = np.where(binom.cdf(most, number, 0.5) <= level, most, most - 1)  # -1: too few to be told apart at all
    worse = (discordant - difference) / (2 * discordant)
    found = binom.cdf(most, number, worse) + binom.cdf(most, number, 1 - worse)
    return float(min((binom.pmf(number, n, discordant) * found).sum(), 1.0))


def sample_size(
    difference: float,
    *,
    discordant: float = 0.2,
    n_classes: int = 10,
    confidence: float = 0.95,
    target: float = 0.8,
) -> int:
    """Return how many examples of a class it takes to find a difference of two models with some probability.

    Args:
        difference: As for :func:`power`, above 0.
        discordant: As there.
        n_classes: As there.
        confidence: As there.
        target: The probability of finding it, above 0 and below 1.

    Returns:
        The number of examples of the class from which on it is found with the probability, but for the steps of a test
        of whole numbers.

    Raises:
        InputError: As :func:`power`, or the number would exceed 16 million.

    Example:
        >>> sample_size(0.05, discordant=0.2)
        1088
    """
    _check(difference, discordant, n_classes, confidence)
    check_number("difference", difference, 0, 1, above=True)
    check_number("target", target, 0, 1, above=True, below=True)

    def enough(n: int) -> bool:
        return power(n, difference, discordant=discordant, n_classes=n_classes, confidence=confidence) >= target

    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST:
            raise InputError(f"A difference of {difference:g} would take more than {_MOST:,} examples of a class.")
    low = high // 2
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_difference(
    n: int, *, discordant: float = 0.2, n_classes: int = 10, confidence: float = 0.95, target: float = 0.8
) -> float:
    """Return the smallest difference of two models on a class that n examples of it find with some probability.

    Args:
        n: Examples of the class.
        discordant: As for :func:`power`; where the difference is larger, they differ on no more examples than that.
        n_classes: As there.
        confidence: As there.
        target: The probability of finding it, above 0 and below 1.

    Returns:
        A fraction, to a thousandth; NaN if no difference is found with that probability.

    Raises:
        InputError: As :func:`power`.

    Example:
        >>> print(f"{detectable_difference(1000):.3f}")
        0.052
    """
    check_whole("n", n, 1)
    _check(0.0, discordant, n_classes, confidence)
    check_number("target", target, 0, 1, above=True, below=True)
    low, high = 0.0, 1.0

    def enough(difference: float) -> bool:
        on = max(difference, discordant)
        return power(n, difference, discordant=on, n_classes=n_classes, confidence=confidence) >= target

    if not enough(high):
        return math.nan
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def what_can_be_told(
    y: npt.ArrayLike, n_classes: int, *, discordant: float = 0.2, confidence: float = 0.95, target: float = 0.8
) -> str:
    """Return, in a sentence, what an audit of these examples will be able to tell of a single class.

    Args:
        y: True labels, ints (n,), of the examples to be attacked.
        n_classes: Number of classes, C.
        discordant: As for :func:`power`.
        confidence: Of intervals and tests.
        target: The probability of finding a difference.

    Returns:
        How wide the interval of a class accuracy is near 50 %, and how far two models have to be apart on a class; of
        the median class that has examples.

    Raises:
        InputError: Labels out of range, no labels, or an option out of range.

    Example:
        >>> print(what_can_be_told([0, 1] * 100, 2))
        With 100 examples of a class, its accuracy is known to about ±10 points, and two models are told apart on it
        from 14 points on (with a probability of 80 %, if they differ on 20 % of the examples, among 2 classes).
    """
    check_whole("n_classes", n_classes, 1)
    labels = check_labels(y, len(np.atleast_1d(np.asarray(y))), n_classes)
    counts = np.bincount(labels, minlength=n_classes)
    counts = counts[counts > 0]
    if len(counts) == 0:
        raise InputError("There are no labels: nothing can be told of no examples.")
    n = int(np.median(counts))
    low, high = wilson(n / 2, n, confidence)
    apart = detectable_difference(n, discordant=discordant, n_classes=len(counts), confidence=confidence, target=target)
    examples = "1 example" if n == 1 else f"{n:,} examples"
    of_class = "of a class (median)" if np.ptp(counts) > 0 else "of a class"
    told = f"With {examples} {of_class}, its accuracy is known to about ±{50 * float(high - low):.0f} points, and two "
    if math.isnan(apart):
        return told + f"models can't be told apart on it among {len(counts):,} classes: pool classes into groups."
    on = max(discordant, apart)
    return told + (
        f"models are told apart on it from {100 * apart:.0f} points on (with a probability of {100 * target:.0f} %, if "
        f"they differ on {100 * on:.0f} % of the examples, among {len(counts):,} classes)."
    )


def _check(difference: float, discordant: float, n_classes: int, confidence: float) -> None:
    check_number("difference", difference, 0, 1)
    check_number("discordant", discordant, 0, 1, above=True)
    check_whole("n_classes", n_classes, 1)
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    if difference > discordant:
        raise InputError(
            f"Two models that differ on {discordant:g} of the examples can't be {difference:g} apart: give a larger "
            "`discordant`."
        )
