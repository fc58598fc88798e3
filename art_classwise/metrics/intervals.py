"""Confidence intervals of proportions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from art_classwise.errors import InputError

__all__ = ["wilson"]


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
    if not 0 < confidence < 1:
        raise InputError(f"`confidence` must lie between 0 and 1, e.g. 0.95, but got {confidence!r}.")
    k, trials = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if np.any(k < 0) or np.any(k > trials):
        raise InputError("Counts of successes must lie between 0 and the number of trials.")
    z = ndtri(0.5 + confidence / 2)
    trials = np.where(trials > 0, trials, np.nan)  # of nothing, nothing is known
    p = k / trials
    half = z * np.sqrt(p * (1 - p) / trials + (z / trials / 2) ** 2)
    centre, scale = p + z**2 / (2 * trials), 1 + z**2 / trials
    # Exact at the ends, where rounding would leave 1e-17 or 1 - 1e-16.
    low = np.where(k == 0, 0 * p, (centre - half) / scale)
    high = np.where(k == trials, p, (centre + half) / scale)
    return low, high
