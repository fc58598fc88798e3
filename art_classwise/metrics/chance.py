"""Whether class accuracies differ by more than chance."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from art_classwise.errors import InputError, check_seed, check_whole, unknown
from art_classwise.metrics._inputs import check_outcomes

__all__ = ["disparity_test"]

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
