"""How unequal class accuracies are, and whether by more than chance."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from art_classwise.errors import InputError, check_number, check_seed, check_whole, unknown
from art_classwise.metrics._dealing import dealt_statistics, pearson
from art_classwise.metrics._inputs import check_outcomes
from art_classwise.metrics.accuracy import mean_ends
from art_classwise.metrics.worst import worst_class

__all__ = ["UNBOUNDED", "disparity", "disparity_intervals", "disparity_rows", "disparity_test", "rho"]

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


def disparity_intervals(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    ddof: int = 0,
    repeats: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the measures of :func:`disparity` beside estimates that aren't too large for few examples, with intervals.

    Noise spreads accuracies: equal classes have a gap of 15 points on average with 10 classes of 100 examples, and of
    100 with 1,000 classes of 5. So values from different numbers of examples per class aren't comparable.

    ``corrected``: the accuracies are moved towards their mean until their variance is the observed one less what the
    examples account for, the mean of a_c (1 - a_c) / (n_c - 1), and measured there (accuracies with the right variance:
    Louis 1984, JASA 79, 393-398); for ``worst`` it is :func:`worst_class`'s estimate.

    ``low``, ``high``: a parametric bootstrap, inverted. Class accuracies m + s (a_c - m) with s from 0, all equal, to
    more than twice as far apart are each given new examples, ``repeats`` times; the interval has those measures for
    which the observed one isn't among the most extreme. It supposes that the true accuracies are spread in the way of
    the observed ones, and falls short where they aren't: simulated at 95 %, it covered in 85 % to 100 %, of ``gini``
    where one class is far below nine equal ones in 78 %; for equal classes never below 90 %. ``mean`` and ``worst``
    have the intervals of :func:`mean_accuracy` and :func:`worst_class`.

    Args:
        y: True labels, ints (n,).
        correct: Whether each example is right, bool (n,).
        n_classes: Number of classes, C.
        ddof: As for :func:`disparity`.
        repeats: How often examples are drawn for each s.
        confidence: Coverage aimed at.
        seed: Of the drawing.

    Returns:
        A row per measure, as :func:`disparity` has them: ``value``, the plain one, which papers print; ``corrected``;
        ``low``, ``high``. Classes with a single example are left out of all of it.

    Raises:
        InputError: Labels and outcomes don't fit, no class has 2 examples, or an option is out of range.

    Example:
        >>> y, correct = [0] * 50 + [1] * 50, [True] * 30 + [False] * 20 + [True] * 26 + [False] * 24
        >>> disparity_intervals(y, correct, 2).loc["mcd"].round(2).to_dict()
        {'value': 0.08, 'corrected': 0.0, 'low': 0.0, 'high': 0.26}
    """
    check_whole("repeats", repeats, 40)
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_seed(seed)
    truth, right = check_outcomes(y, correct, n_classes)
    n = np.bincount(truth, minlength=n_classes)
    k = np.bincount(truth[right], minlength=n_classes)[n > 1]
    n = n[n > 1]
    if len(n) == 0:
        raise InputError("No class has 2 examples: without, nothing tells noise from differences.")
    a = k / n
    plain = disparity(a, ddof=ddof)
    noise = float((a * (1 - a) / (n - 1)).mean()) * (1 - 1 / len(n))
    shrunk = math.sqrt(max(1 - noise / plain["cv"], 0)) if plain["cv"] > 0 else 0.0
    ends = _inverted(a, n, plain, ddof, repeats, confidence, np.random.default_rng(seed))
    corrected = disparity(_spread(a, shrunk), ddof=ddof).to_dict()
    intervals = dict(zip(plain.index, ends.tolist(), strict=True))
    mean, low, high = mean_ends(k, n, confidence)
    worst = worst_class(truth, right, n_classes, confidence=confidence)
    # The mean varies, too, and the tail with it.
    tail_low, tail_high = intervals["tail20"]
    intervals["tail20"] = [max(tail_low - (mean - low), 0.0), min(tail_high + (high - mean), 1.0)]
    intervals |= {"mean": [low, high], "worst": [worst["low"], worst["high"]]}
    rows = pd.DataFrame.from_dict(intervals, orient="index", columns=["low", "high"])
    return pd.DataFrame({"value": plain, "corrected": pd.Series({**corrected, "worst": worst["accuracy"]})}).join(rows)


def _spread(a: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    moved: npt.NDArray[np.float64] = np.clip(a.mean() + factor * (a - a.mean()), 0, 1)
    return moved


def _inverted(
    a: npt.NDArray[np.float64],
    n: npt.NDArray[np.int64],
    plain: pd.Series[float],
    ddof: int,
    repeats: int,
    confidence: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Return both ends of each measure, (measures, 2): of accuracies so far apart that the plain one may come about."""
    noise = math.sqrt(float((1 / (4 * n)).mean()))
    if a.std() < noise / 10:  # as good as equal: they may be apart in any way, so evenly
        a = a.mean() + noise * np.linspace(-1, 1, len(a))
    factors = np.linspace(0, 2 + 4 * noise / float(a.std()), 41) if len(a) > 1 else np.zeros(1)
    true = [_spread(a, factor) for factor in factors]
    measures = disparity_rows(np.array(true), ddof)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    drawn = np.array(
        [np.quantile(disparity_rows(rng.binomial(n, p, (repeats, len(n))) / n, ddof), tails, 0) for p in true]
    )
    ends = np.full((len(plain), 2), np.nan)
    for i, name in enumerate(plain.index):
        sign = -1 if name == "tail20" else 1  # the only one that falls where classes differ more
        of, least, most = sign * measures[:, i], *np.sort(sign * drawn[:, :, i], axis=1).T
        value = sign * plain[name]
        if np.isfinite(value):
            # The first factor at which the observed measure is reached, and the last.
            most, least = np.maximum.accumulate(most), np.minimum.accumulate(least[::-1])[::-1]
            first = 0.0 if most[0] >= value else float(np.interp(value, most, factors))
            last = factors[-1] if least[-1] <= value else float(np.interp(value, least, factors))
            ends[i] = np.sort(sign * np.interp([first, last], factors, of))
    return ends


def disparity_rows(a: npt.NDArray[np.float64], ddof: int) -> npt.NDArray[np.float64]:
    """Return :func:`disparity` of each row of (R, C), (R, measures)."""
    ordered = np.sort(a, axis=1)
    n_classes = a.shape[1]
    mean, variance = a.mean(1), a.var(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(variance * n_classes / (n_classes - ddof))
        # Of ordered accuracies, the sum of all differences is a sum with weights.
        differences = 2 * (ordered * (2 * np.arange(1, n_classes + 1) - n_classes - 1)).sum(1) / n_classes**2
        columns = [mean, ordered[:, 0], ordered[:, : math.ceil(n_classes / 5)].mean(1), variance]
        columns += [ordered[:, -1] - ordered[:, 0], sd, sd / mean, differences / (2 * mean)]
    return np.stack(columns, 1)


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
    statistic = float(pearson(k, n, share))
    if method == "chi-square" or (method == "auto" and n.min() * min(share, 1 - share) >= 5):
        p, repeats = float(chdtrc(dof, statistic)), 0
    else:
        # Shuffled labels deal the right examples out to the classes; only their counts matter.
        dealt = dealt_statistics(n, int(k.sum()), repeats, np.random.default_rng(seed))
        as_large = dealt >= statistic * (1 - 1e-9)  # equal tables may differ by rounding
        p = (1 + int(as_large.sum())) / (1 + repeats)
    return pd.Series({"statistic": statistic, "dof": dof, "p": p, "permutations": float(repeats)})
