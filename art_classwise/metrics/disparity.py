"""How unequal class accuracies are, and whether by more than chance."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from art_classwise.errors import InputError, check_number, check_seed, check_whole, unknown
from art_classwise.metrics._inputs import check_outcomes

__all__ = ["UNBOUNDED", "disparity", "disparity_test", "rho"]

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


Method = Literal["auto", "chi-square", "permutation"]


def disparity_test(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    method: Method = "auto",
    repeats: int = 10_000,
    seed: int = 0,
) -> pd.Series[float]:
    """Test whether all classes have the same accuracy.

    Pearson's statistic of the (C, 2) table of right and wrong examples, with n_c examples of class c, k_c of them
    right, and q the share of all examples that is right: sum (k_c - n_c q)^2 / (n_c q (1 - q)).

    Args:
        y: True labels, ints (n,).
        correct: Whether each example is right, bool (n,).
        n_classes: Number of classes, C.
        method: ``"chi-square"`` takes p from the chi-square distribution, which needs a few right and a few wrong
            examples expected per class: of 20 classes of one example and one of 200, at q = 2 %, it finds differences
            at 5 % in 27 % of the data sets where there are none. ``"permutation"`` shuffles the labels and needs
            nothing. ``"auto"`` shuffles where some n_c q or n_c (1 - q) is below 5, the usual rule.
        repeats: Number of permutations, R; with r statistics no smaller than the observed one, p = (1 + r) / (1 + R).
        seed: Of the permutations.

    Returns:
        ``statistic``; ``dof``, the number of classes with examples less one; ``p``, which is 1 where all or none of
        the examples are right; ``permutations``, behind p: R, or 0 if there were none.

    Raises:
        InputError: Labels and outcomes don't fit, fewer than two classes have examples, or an option is out of range.

    Example:
        >>> disparity_test([0] * 10 + [1] * 10, [True] * 9 + [False] * 10 + [True], 2).round(4).to_dict()
        {'statistic': 12.8, 'dof': 1.0, 'p': 0.0003, 'permutations': 0.0}
    """
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    check_whole("repeats", repeats, 1)
    check_seed(seed)
    truth, right = check_outcomes(y, correct, n_classes)
    n = np.bincount(truth, minlength=n_classes)
    k = np.bincount(truth[right], minlength=n_classes)[n > 0]
    n = n[n > 0]
    dof = len(n) - 1
    if dof < 1:
        raise InputError("All examples are of one class: a difference needs two classes with examples.")
    share = right.mean()
    if share in (0, 1):
        return pd.Series({"statistic": 0.0, "dof": dof, "p": 1.0, "permutations": 0.0})
    statistic = float(_pearson(k, n, share))
    if method == "chi-square" or (method == "auto" and n.min() * min(share, 1 - share) >= 5):
        p, repeats = float(chdtrc(dof, statistic)), 0
    else:
        # Shuffled labels deal the right examples out to the classes; only their counts matter.
        dealt = np.random.default_rng(seed).multivariate_hypergeometric(n, k.sum(), repeats, method="marginals")
        as_large = _pearson(dealt, n, share) >= statistic * (1 - 1e-9)  # equal tables may differ by rounding
        p = (1 + int(as_large.sum())) / (1 + repeats)
    return pd.Series({"statistic": statistic, "dof": dof, "p": p, "permutations": float(repeats)})


def _pearson(k: npt.NDArray[np.int64], n: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.float64]:
    """Return the statistic of tables with k (..., C) right of n (C,) examples, ``share`` of all of them."""
    statistic: npt.NDArray[np.float64] = ((k - n * share) ** 2 / (n * share * (1 - share))).sum(-1)
    return statistic
