"""Whether outcomes on the same examples agree on which classes are weak: attacks, or models."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv, ndtr

from art_classwise.errors import check_number, check_seed, check_whole
from art_classwise.metrics._inputs import paired_counts

__all__ = ["rank_agreement"]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def rank_agreement(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    repeats: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.Series[float]:
    """Return how far two outcomes on the same examples agree in the order of the classes, as Kendall's tau-b.

    Two attacks, or two models, that are tried on the same examples order the classes alike even if all classes are
    equal: a class that has more of the hard examples in the test set looks worse under both. So the examples of each
    class are split at random into halves. One half gives the order under the first outcome, the other half that under
    the second, in turn; ``tau`` is the mean over splits. Equal classes have a tau of 0 on average. Noise pulls it
    towards 0: half of the examples order the classes less well than all.

    - ``p`` is twice that of SciPy's test in the split with the median tau: each split is a valid test, and twice the
      median p of many is one, too, whatever their dependence (Meinshausen, Meier and Buehlmann 2009, JASA 104,
      1671-1681). The hypothesis is that the orders have nothing to do with each other, or that there is none, for which
      the classes are the sample.
    - ``low`` and ``high`` say what the examples tell of the tau of the true accuracies. A pair of classes is resolved
      if both outcomes order it beyond doubt: the intervals of its two accuracies, which hold for all classes and both
      outcomes at once (Clopper and Pearson 1934, a difference as Newcombe 1998, Tukey's criterion for all), leave out
      that they are equal. All other pairs may count for or against. So it covers at least as often as it says, whatever
      the accuracies and however alike the outcomes, is wide in return, and [-1, 1] where no pair is resolved.

    Args:
        y: True labels, ints (n,).
        first: Whether each example withstood the first time (one attack, or one model), bool (n,).
        second: Whether it did the second time (another), bool (n,).
        n_classes: Number of classes, C.
        repeats: How often examples are split.
        confidence: Coverage of the interval.
        seed: Of the splits.

    Returns:
        ``tau``; ``low``, ``high`` (widened to hold ``tau``, should it lie outside); ``p``; ``resolved``, the share of
        pairs of classes that are; ``n_classes``, those with 2 examples, without which a class can't be split and is
        left out; ``plain``, tau of all examples, which shared examples raise. NaN with fewer than two such classes;
        where all accuracies of an outcome are equal there is no tau: NaN, too, but ``resolved`` is 0.

    Raises:
        InputError: Labels out of range, arrays of different length, no examples, outcomes that aren't true or false, or
            an option out of range.

    Example:
        >>> y, withstood = [0] * 50 + [1] * 50 + [2] * 50, [True] * 60 + [False] * 90
        >>> rank_agreement(y, withstood, withstood, 3).round(2)[["tau", "low", "high", "resolved"]].to_dict()
        {'tau': 1.0, 'low': 1.0, 'high': 1.0, 'resolved': 1.0}
    """
    from scipy.stats import kendalltau  # half a second, which the other metrics needn't wait

    check_whole("repeats", repeats, 1)
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_seed(seed)
    counts = paired_counts(y, first, second, n_classes)
    counts = counts[counts.sum(1) > 1]
    n = counts.sum(1)
    result = dict.fromkeys(("tau", "low", "high", "p", "resolved", "n_classes", "plain"), math.nan)
    result["n_classes"] = float(len(n))
    if len(n) > 1:
        result["resolved"] = 0.0
    right = np.stack([counts[:, 0] + counts[:, 1], counts[:, 0] + counts[:, 2]])
    if len(n) > 1 and (np.ptp(right / n, axis=1) > 0).all():
        one, other = _halves(counts, repeats, np.random.default_rng(seed))
        taus = _tau(one, other)
        known = np.flatnonzero(~np.isnan(taus))
        if len(known):
            result["tau"] = float(taus[known].mean())
            # Of an even number the one nearer to 0, the lower median in size.
            order = known[np.argsort(taus[known], kind="stable")]
            middle = min(order[(len(order) - 1) // 2], order[len(order) // 2], key=lambda i: abs(taus[i]))
            result["p"] = min(2 * float(kendalltau(one[middle], other[middle]).pvalue), 1.0)
        result["plain"] = float(kendalltau(*(right / n)).statistic)
        concordant, discordant = _resolved(right, n, 1 - confidence)
        unresolved = 1 - concordant - discordant
        low, high = concordant - discordant - unresolved, concordant - discordant + unresolved
        # Noise pulls tau towards 0, maybe out of the interval.
        result["low"], result["high"] = float(np.fmin(low, result["tau"])), float(np.fmax(high, result["tau"]))
        result["resolved"] = concordant + discordant
    return pd.Series(result)


def _halves(counts: Counts, repeats: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return accuracies of one outcome on a random half, and of the other outcome on the other half.

    Args:
        counts: (C, 4), of :func:`paired_counts`, all classes with 2 examples at least.
        repeats: How often examples are split.
        rng: What splits.

    Returns:
        Two arrays (2 * repeats, C): each half gives each order once.
    """
    n = counts.sum(1)
    part = np.stack([rng.multivariate_hypergeometric(of, of.sum() // 2, repeats) for of in counts], 1)
    one, other = part / (n // 2)[:, None], (counts - part) / (n - n // 2)[:, None]
    return (
        np.concatenate([one[..., 0] + one[..., 1], other[..., 0] + other[..., 1]]),
        np.concatenate([other[..., 0] + other[..., 2], one[..., 0] + one[..., 2]]),
    )


def _tau(a: Floats, b: Floats) -> Floats:
    """Return Kendall's tau-b of each row of (R, C) and (R, C); NaN where a row is constant."""
    together, varied_a, varied_b = np.zeros((3, len(a)))
    for i in range(a.shape[1] - 1):  # all pairs at once would be gigabytes with 1,000 classes
        of_a, of_b = np.sign(a[:, i, None] - a[:, i + 1 :]), np.sign(b[:, i, None] - b[:, i + 1 :])
        together += (of_a * of_b).sum(1)
        varied_a += np.abs(of_a).sum(1)
        varied_b += np.abs(of_b).sum(1)
    pairs = np.sqrt(varied_a * varied_b)
    tau: Floats = together / np.where(pairs > 0, pairs, np.nan)
    return tau


def _resolved(right: Counts, n: Counts, alpha: float) -> tuple[float, float]:
    """Return the shares of pairs of classes that two outcomes order alike, and in opposite ways, beyond doubt.

    Args:
        right: (2, C) right ones of each outcome.
        n: Examples of each class, (C,).
        alpha: The probability that any pair is ordered wrongly in either.
    """
    one, other = (_ordered(of, n, alpha / 2) for of in right)
    pairs = len(n) * (len(n) - 1)
    return np.count_nonzero(one * other > 0) / pairs, np.count_nonzero(one * other < 0) / pairs


def _ordered(right: Counts, n: Counts, alpha: float) -> npt.NDArray[np.int8]:
    """Return 1 where a class is better than another beyond doubt, -1 where it is worse, else 0: (C, C).

    Any of it is wrong with a probability of about alpha at most: Tukey's criterion for all pairs of classes.
    """
    from scipy.stats import studentized_range  # half a second

    error = float(ndtr(-studentized_range.ppf(1 - alpha, len(n), np.inf) / math.sqrt(2)))
    share = right / n
    down = share - np.where(right > 0, betaincinv(np.maximum(right, 1), n - right + 1, error), 0)
    up = np.where(right < n, betaincinv(right + 1, np.maximum(n - right, 1), 1 - error), 1) - share
    difference = share[:, None] - share
    return (difference > np.hypot(down[:, None], up)).astype(np.int8) - (-difference > np.hypot(up[:, None], down))
