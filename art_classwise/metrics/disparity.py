"""How unequal the class accuracies are."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.errors import InputError, check_number

__all__ = ["UNBOUNDED", "disparity", "rho"]

UNBOUNDED = frozenset({"nsd"})
"""Measures of :func:`disparity` that may exceed 1; none is below 0."""


def disparity(accuracies: npt.ArrayLike, *, ddof: int = 0) -> pd.Series[float]:
    """Return measures of how unequal class accuracies are.

    With class accuracies a_1..a_C and mean m:

    - ``mean``, ``worst``: m and min a_c
    - ``tail20``: mean of the worst fifth of the classes (of ceil(C / 5))
    - ``cv``: class-wise variance, (1/C) sum (a_c - m)^2 (Tian et al. 2021)
    - ``mcd``: maximum class-wise discrepancy, max a_c - min a_c (Tian et al. 2021)
    - ``sd``, ``nsd``: standard deviation, and divided by m
    - ``gini``: sum_ij abs(a_i - a_j) / (2 C^2 m)

    The worst of several noisy classes is biased low as an estimate of the truly worst one.

    Args:
        accuracies: (C,) fractions; classes without examples (NaN) are left out.
        ddof: 0 for the population's standard deviation, 1 for the sample's; ``cv`` is always the former.

    Returns:
        A Series of fractions; ``nsd`` and ``gini`` are NaN where the mean is 0.

    Raises:
        InputError: No class has an accuracy, or one lies outside [0, 1].

    Example:
        >>> disparity([0.9, 0.7, 0.2]).round(3).to_dict()["mcd"]
        0.7
    """
    a = np.asarray(accuracies, dtype=np.float64).ravel()
    a = a[~np.isnan(a)]
    if len(a) == 0:
        raise InputError("There is no class accuracy: every class is without examples.")
    if np.any((a < 0) | (a > 1)):
        raise InputError(f"Class accuracies are fractions in [0, 1], but got {a[(a < 0) | (a > 1)][0]:g}.")
    if ddof not in (0, 1):
        raise InputError(f"`ddof` must be 0 (population) or 1 (sample), but got {ddof!r}.")
    mean = float(a.mean())
    sd = float(a.std(ddof=ddof)) if len(a) > ddof else math.nan
    differences = float(np.abs(a[:, None] - a[None, :]).mean())
    return pd.Series(
        {
            "mean": mean,
            "worst": float(a.min()),
            "tail20": float(np.sort(a)[: math.ceil(len(a) / 5)].mean()),
            "cv": float(a.var()),
            "mcd": float(a.max() - a.min()),
            "sd": sd,
            "nsd": sd / mean if mean else math.nan,
            "gini": differences / (2 * mean) if mean else math.nan,
        }
    )


def rho(worst: float, average: float, worst_base: float, average_base: float) -> float:
    """Return what the worst class gains, less what the average loses, both relative to a baseline.

    (W - W0) / W0 - (A0 - A) / A0 with worst-class accuracy W, average accuracy A and the baseline's W0 and A0
    (Li and Liu 2023, WAT; Lee et al. 2024, DAFA): above 0 where the gain outweighs the loss.

    Args:
        worst: Accuracy of the worst class, a fraction.
        average: Average accuracy, a fraction.
        worst_base: The baseline's worst class.
        average_base: The baseline's average.

    Returns:
        The difference of the two relative changes; NaN where an accuracy of the baseline is 0, to which nothing is
        relative: so that a table of many runs gets its numbers all the same.

    Raises:
        InputError: An accuracy lies outside [0, 1].

    Example:
        >>> print(f"{rho(0.3053, 0.4905, 0.2131, 0.4980):.3f}")
        0.418
    """
    check_number("worst", worst, 0, 1)
    check_number("average", average, 0, 1)
    check_number("worst_base", worst_base, 0, 1)
    check_number("average_base", average_base, 0, 1)
    if worst_base == 0 or average_base == 0:
        return math.nan
    return (worst - worst_base) / worst_base - (average_base - average) / average_base
