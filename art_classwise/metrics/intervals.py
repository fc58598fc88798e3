"""Confidence intervals of proportions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from art_classwise.errors import InputError, check_number

__all__ = ["clopper_pearson", "paired_difference", "phi_coefficient", "wilson"]


def wilson(
    successes: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the Wilson score interval of proportions (Wilson 1927), without continuity correction.

    Unlike the normal approximation it stays in [0, 1] and has a width at 0 % and 100 %.

    Args:
        successes: Counts, of any shape.
        n: Numbers of trials, broadcastable to ``successes``.
        confidence: Coverage, above 0 and below 1.

    Returns:
        Lower and upper ends, fractions; NaN where ``n`` is 0.

    Raises:
        InputError: The confidence is out of range, or a count is negative or exceeds its number of trials.

    Example:
        >>> low, high = wilson(30, 100)
        >>> print(f"{low:.3f} {high:.3f}")
        0.219 0.396
    """
    k, trials = _counts(successes, n, confidence)
    z = ndtri(0.5 + confidence / 2)
    trials = np.where(trials > 0, trials, np.nan)  # of nothing, nothing is known
    p = k / trials
    half = z * np.sqrt(p * (1 - p) / trials + (z / trials / 2) ** 2)
    centre, scale = p + z**2 / (2 * trials), 1 + z**2 / trials
    # Exact at the ends, where rounding would leave 1e-17 or 1 - 1e-16.
    low = np.where(k == 0, 0 * p, (centre - half) / scale)
    high = np.where(k == trials, p, (centre + half) / scale)
    return low, high


def clopper_pearson(
    successes: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the exact interval of proportions (Clopper and Pearson 1934), which covers at least as often as it says.

    Each end by itself is wrong with probability (1 - ``confidence``) / 2 at most.

    Args:
        successes: Counts, of any shape.
        n: Numbers of trials, broadcastable to ``successes``.
        confidence: Coverage, above 0 and below 1.

    Returns:
        Lower and upper ends, fractions; NaN where ``n`` is 0.

    Raises:
        InputError: The confidence is out of range, or a count is negative or exceeds its number of trials.

    Example:
        >>> low, high = clopper_pearson(30, 100)
        >>> print(f"{low:.3f} {high:.3f}")
        0.212 0.400
    """
    k, trials = _counts(successes, n, confidence)
    alpha, nothing = (1 - confidence) / 2, np.where(trials > 0, 0.0, np.nan)
    # Where an end is known, any arguments that betaincinv takes will do.
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), np.maximum(trials - k + 1, 1), alpha), 0.0)
    high = np.where(k < trials, betaincinv(k + 1, np.maximum(trials - k, 1), 1 - alpha), 1.0)
    return low + nothing, high + nothing


def _counts(
    successes: npt.ArrayLike, n: npt.ArrayLike, confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    k, trials = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if np.any(k < 0) or np.any(k > trials):
        raise InputError("Counts of successes must lie between 0 and the number of trials.")
    return k, trials


def paired_difference(
    both: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, neither: npt.ArrayLike, confidence: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the difference of two proportions measured on the same trials, with its score interval.

    Newcombe 1998 (Statistics in Medicine 17, 2635-2650), method 10: it squares and adds the Wilson intervals of
    both, and takes account of how they go together.

    Args:
        both: Counts of trials that succeeded both times, of any shape.
        first: Counts of those that succeeded the first time alone.
        second: Counts of those that succeeded the second time alone.
        neither: Counts of the others.
        confidence: Coverage, above 0 and below 1.

    Returns:
        The difference, first minus second, and its lower and upper end; NaN where there is no trial.

    Raises:
        InputError: The confidence is out of range, or a count is negative.

    Example:
        >>> difference, low, high = paired_difference(40, 20, 5, 35)
        >>> print(f"{difference:.2f} {low:.3f} {high:.3f}")
        0.15 0.053 0.241
    """
    a, b, c, d = np.broadcast_arrays(*(np.asarray(count, float) for count in (both, first, second, neither)))
    n = a + b + c + d
    if np.any(np.minimum(np.minimum(a, b), np.minimum(c, d)) < 0):
        raise InputError("Counts of trials must be at least 0.")
    (low1, high1), (low2, high2) = wilson(a + b, n, confidence), wilson(a + c, n, confidence)
    trials = np.where(n > 0, n, np.nan)
    p1, p2 = (a + b) / trials, (a + c) / trials
    phi = phi_coefficient(a, b, c, d)

    def half(down: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        squared: npt.NDArray[np.float64] = np.maximum(down**2 - 2 * phi * down * up + up**2, 0)
        return np.sqrt(squared)

    difference = p1 - p2
    return difference, difference - half(p1 - low1, high2 - p2), difference + half(high1 - p1, p2 - low2)


def phi_coefficient(
    both: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, neither: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return how far two go together, from counts as :func:`paired_difference` takes them, with Newcombe's correction.

    Returns:
        Pearson's phi, its numerator if positive lessened by n / 2, to 0 at least; 0 where a margin is empty.
    """
    a, b, c, d = (np.asarray(count, float) for count in (both, first, second, neither))
    margins = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    product = a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - (a + b + c + d) / 2, 0), product)
    phi: npt.NDArray[np.float64] = corrected / np.where(margins > 0, margins, 1)
    return phi
