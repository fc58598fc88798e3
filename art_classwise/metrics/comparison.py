"""Two models, or two attacks, on the same examples: what differs, class by class, and what may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtr, ndtri

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError, check_number, check_seed
from art_classwise.metrics._inputs import paired_counts
from art_classwise.metrics.accuracy import mean_ends
from art_classwise.metrics.disparity import rho
from art_classwise.metrics.intervals import paired_difference
from art_classwise.metrics.worst import FEWEST, Pair, worst_difference_ends, worst_interval

__all__ = ["attack_strength", "holm", "mcnemar", "mean_difference", "paired_comparison", "rho_interval"]


def mcnemar(first_only: npt.ArrayLike, second_only: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the exact p-value of McNemar's test (McNemar 1947): is one of two as good as the other?

    Only the examples on which the two differ tell. If both are equally good, each of these is as likely the one's as
    the other's: twice the smaller tail of the binomial distribution with probability 1/2, at most 1.

    Args:
        first_only: Counts of examples that the first got right and the second didn't, of any shape.
        second_only: Counts of those that the second got right and the first didn't.

    Returns:
        Two-sided p-values; 1 where both counts are 0.

    Raises:
        InputError: A count is negative, not whole or not finite.

    Example:
        >>> print(f"{mcnemar(1, 6):.3f}")
        0.125
    """
    b, c = np.broadcast_arrays(np.asarray(first_only, np.float64), np.asarray(second_only, np.float64))
    if not np.all((np.minimum(b, c) >= 0) & np.isfinite(b + c) & (b == np.floor(b)) & (c == np.floor(c))):
        raise InputError("Counts of examples must be whole numbers of at least 0.")
    tail: npt.NDArray[np.float64] = bdtr(np.minimum(b, c), (b + c).astype(np.int64), 0.5)
    return np.minimum(2 * tail, 1.0)


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p-values adjusted for being many (Holm 1979).

    Whoever believes all differences whose adjusted value is at most alpha believes a false one with a probability of
    at most alpha, however the tests depend on each other.

    Args:
        p: (m,) p-values; NaN for a test that was not made, which doesn't count.

    Returns:
        (m,) adjusted values; NaN stays NaN.

    Raises:
        InputError: The shape is another, or a value lies outside of [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1:
        raise InputError(f"p-values must be a vector (m,), but have shape {values.shape}.")
    if np.any((values < 0) | (values > 1)):
        raise InputError(f"p-values lie in [0, 1], but got {values[(values < 0) | (values > 1)][0]:g}.")
    made = ~np.isnan(values)
    order = np.flatnonzero(made)[np.argsort(values[made], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def paired_comparison(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return, of each class, how two models or attacks differ on the same examples.

    Args:
        y: True labels, ints (n,).
        first: Whether the first got each example right, bool (n,): ``y == y_pred``, or whether it was withstood.
        second: The same of the second.
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of each interval.

    Returns:
        A row per class, in their order: ``n``; ``first`` and ``second``, their accuracies; ``difference``, first minus
        second, with ``low`` and ``high`` (Newcombe 1998: :func:`art_classwise.metrics.paired_difference`); ``p``, of
        McNemar's exact test; ``p_adjusted``, by Holm over the classes with examples. All but ``n`` are fractions. A
        class without examples has n = 0 and NaN.

        Only ``p_adjusted`` holds for all classes at once. An interval is for its class alone: of C of 95 %, about one
        in twenty misses, and the class that was picked for its large difference misses more often.

    Raises:
        InputError: Labels out of range, arrays of different length or not bool, no examples at all, or the wrong
            number of names.

    Example:
        >>> paired_comparison([0, 0, 1], [True, True, False], [True, False, False], 2)[["n", "difference", "p"]]
               n  difference    p
        class
        0      2         0.5  1.0
        1      1         0.0  1.0
    """
    counts = paired_counts(y, first, second, n_classes)
    names = class_names(classes, n_classes)
    table = paired_accuracies(counts, confidence)
    p = np.where(table["n"] > 0, mcnemar(counts[:, 1], counts[:, 2]), np.nan)
    return table.assign(p=p, p_adjusted=holm(p)).set_axis(pd.Index(names, name="class"))


def paired_accuracies(counts: npt.NDArray[np.int64], confidence: float) -> pd.DataFrame:
    """Return the accuracies of two and their difference, with its interval, from :func:`paired_counts` (C, 4).

    Returns:
        A row per class: ``n``, ``first``, ``second``, ``difference``, ``low``, ``high``, as :func:`paired_comparison`.
    """
    both, first_only, second_only, neither = counts.T
    n = counts.sum(1)
    difference, low, high = paired_difference(both, first_only, second_only, neither, confidence)
    trials = np.where(n > 0, n, np.nan)
    accuracies = {"first": (both + first_only) / trials, "second": (both + second_only) / trials}
    return pd.DataFrame({"n": n, **accuracies, "difference": difference, "low": low, "high": high})


def mean_difference(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    confidence: float = 0.95,
) -> pd.Series[float]:
    """Return how the means over classes of two differ: every class counts alike, however many examples it has.

    The classes' examples are independent, so the variance of the mean is sum_c v_c / n_c / C^2 over the C classes that
    have examples, v_c the variance of right minus right within a class (as of a stratified sample); the interval is
    normal. A class of one example takes the v of all classes pooled; and one example on which the two differ is added,
    a part of it to each class, or two that agree throughout would have an interval of no width. Simulated at 95 %: 94 %
    to 96 % with 10 classes of 100 and 1,000 examples and with 1,000 of 5; 90 % with 10 of 20 where the two
    differ on few.

    Args:
        y: True labels, ints (n,).
        first: Whether the first got each example right, bool (n,).
        second: The same of the second.
        n_classes: Number of classes, C.
        confidence: Coverage of the interval, about.

    Returns:
        ``first``, ``second``, ``difference`` (first minus second), ``low``, ``high``.

    Raises:
        InputError: As :func:`paired_comparison`.
    """
    counts = paired_counts(y, first, second, n_classes)
    counts = counts[counts.sum(1) > 0]
    table = paired_accuracies(counts, confidence)
    low, high = _mean_ends(counts, confidence)
    a, b = (float(table[side].mean()) for side in ("first", "second"))
    return pd.Series({"first": a, "second": b, "difference": a - b, "low": low, "high": high})


def _mean_ends(counts: npt.NDArray[np.int64], confidence: float) -> tuple[float, float]:
    """Return the ends of :func:`mean_difference` from :func:`paired_counts` (C, 4), all classes with examples."""
    table = paired_accuracies(counts, confidence)
    n, differ = counts.sum(1), counts[:, 1] + counts[:, 2]
    squares = differ - n * table["difference"].to_numpy() ** 2  # sums of squares around the class's mean
    free = n - 1
    pooled = squares.sum() / free.sum() if free.any() else differ.mean()
    variances = np.where(free > 0, squares / np.maximum(free, 1), pooled) + 1 / (len(n) * n)
    half = float(ndtri(0.5 + confidence / 2)) * float(np.sqrt((variances / n).sum())) / len(n)
    difference = float(table["difference"].mean())
    return max(difference - half, -1.0), min(difference + half, 1.0)


def rho_interval(
    y: npt.ArrayLike, correct: npt.ArrayLike, baseline: npt.ArrayLike, n_classes: int, *, confidence: float = 0.95
) -> pd.Series[float]:
    """Return :func:`rho` of a model against a baseline on the same examples, with an interval.

    With worst classes W and W0 and means A and A0, rho is (W - W0) / W0 + (A - A0) / A0. The interval puts the ends of
    four others together, which hold at once: of W - W0 (:func:`worst_class_difference`) with half of the error, W0
    (:func:`worst_class`) with a quarter, A - A0 (:func:`mean_difference`) and A0 (:func:`mean_accuracy`) with an eighth
    each. It covers at least as often as it says where these do, and is wide: a ratio to a small W0 is hardly known.

    Args:
        y: True labels, ints (n,).
        correct: Whether the model got each example right, or whether it withstood, bool (n,).
        baseline: The same of the baseline, bool (n,).
        n_classes: Number of classes, C. Classes with a single example are left out.
        confidence: Coverage of the interval.

    Returns:
        ``rho``, ``low``, ``high``; NaN where the baseline's worst class is at 0; an end is infinite where it may be.

    Raises:
        InputError: As :func:`worst_class_difference`.

    Example:
        >>> y, base = [0] * 500 + [1] * 500, [True] * 650 + [False] * 350
        >>> rho_interval(y, [True] * 700 + [False] * 300, base, 2).round(2).to_dict()
        {'rho': 0.41, 'low': 0.24, 'high': 0.64}
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    counts = paired_counts(y, correct, baseline, n_classes, names=("correct", "baseline"))
    counts = counts[counts.sum(1) >= FEWEST]
    if len(counts) == 0:
        raise InputError("No class has 2 examples: the worst class needs some.")
    pair, alpha = Pair.of(counts), 1 - confidence
    new, old, n = pair.first, pair.second, pair.n
    worst, worst_base = float((new / n).min()), float((old / n).min())
    mean, mean_base = float((new / n).mean()), float((old / n).mean())
    plain = rho(worst, mean, worst_base, mean_base)
    if math.isnan(plain):
        return pd.Series({"rho": plain, "low": plain, "high": plain})
    gain = [float(end) for end in worst_difference_ends(pair, alpha / 2)]
    of_mean = _mean_ends(counts, 1 - alpha / 8)
    low = _least_ratio(gain[0], worst_interval(old, n, alpha / 4))
    high = -_least_ratio(-gain[1], worst_interval(old, n, alpha / 4))
    base = mean_ends(old, n, 1 - alpha / 8)[1:]
    return pd.Series(
        {"rho": plain, "low": low + _least_ratio(of_mean[0], base), "high": high - _least_ratio(-of_mean[1], base)}
    )


def _least_ratio(value: float, divisor: tuple[float, float]) -> float:
    """Return the smallest of value / d for d between two ends, which may begin at 0."""
    by = divisor[1] if value > 0 else divisor[0]
    return value / by if by > 0 else (0.0 if value == 0 else -math.inf)


def attack_strength(
    y: npt.ArrayLike,
    weak: npt.ArrayLike,
    strong: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
    split_seed: int | None = None,
) -> pd.DataFrame:
    """Return how much each class loses from a weaker attack to a stronger one, the weakest class first.

    Tian et al. 2021 (section 1, claim 3 of their analysis) find that the classes that were already weak lose most. The
    rank correlation of that is ``correlations(table["baseline"], table["drop"])``: negative, if they do.

    Beware: the drop is weak - strong, so the noise of the weak accuracy stands on both sides and correlates them
    positively where nothing is to be found. A floor does so, too: a class can't lose more than it has. The first goes
    away with ``split_seed``: half the examples of each class then tell how weak it is, the other half what it loses.

    Args:
        y: True labels, ints (n,).
        weak: Whether each example withstood the weaker attack, bool (n,).
        strong: Whether it withstood the stronger one, bool (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the intervals.
        split_seed: Draws the half that tells how weak a class is; if absent, all examples do both.

    Returns:
        A row per class, by rising ``baseline``: the accuracy under the weaker attack that says how weak the class is.
        Of the examples that measure the loss: ``n``; ``weak``, ``strong``, the accuracies; ``drop``, weak - strong,
        with ``low``, ``high``, its paired interval (Newcombe 1998); ``relative``, drop / weak; ``share``, the class's
        part of the sum of all drops, in which each class counts the same; ``cumulated``, the part of the classes down
        to this one, which would be k / C if all lost alike. The last three have ``_low`` and ``_high``, percentiles of
        400 bootstrap samples of the examples, drawn within each class, the order of the classes as it is. Shares are
        NaN if the sum isn't positive; a class without examples is last, with NaN.

    Raises:
        InputError: Labels out of range, arrays of different length, no examples, the wrong number of names, outcomes
            that aren't true or false, or an option out of range.

    Example:
        >>> y, weak, strong = [0, 0, 1, 1], [True, True, True, False], [True, True, False, False]
        >>> attack_strength(y, weak, strong, 2)[["weak", "strong", "drop", "share"]]
               weak  strong  drop  share
        class
        1       0.5     0.0   0.5    1.0
        0       1.0     1.0   0.0    0.0
    """
    counts = paired_counts(y, weak, strong, n_classes, names=("weak", "strong"))
    names = class_names(classes, n_classes)
    ranking = counts
    if split_seed is not None:
        check_seed(split_seed)
        ranking = _half(counts, np.random.default_rng(split_seed))
        counts = counts - ranking
    table = paired_accuracies(counts, confidence).set_axis(pd.Index(names, name="class"))
    table = table.rename(columns={"first": "weak", "second": "strong", "difference": "drop"})
    table.insert(0, "baseline", paired_accuracies(ranking, confidence)["first"].to_numpy())
    table["relative"] = table["drop"] / table["weak"].where(table["weak"] > 0)
    table = table.sort_values("baseline", kind="stable")
    total = table["drop"].sum()
    table["share"] = table["drop"] / (total if total > 0 else np.nan)
    table["cumulated"] = table["share"].cumsum()
    ends = _drawn_shares(counts[[names.index(name) for name in table.index]], confidence)
    for column, (low, high) in ends.items():
        table[f"{column}_low"], table[f"{column}_high"] = low, high
    return table


def _drawn_shares(
    counts: npt.NDArray[np.int64], confidence: float, repeats: int = 400
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return bootstrap ends of ``relative``, ``share`` and ``cumulated`` of classes in their order, from (C, 4)."""
    n = counts.sum(1)
    there = n > 0
    likely = counts[there] / n[there, None]
    drawn = np.random.default_rng(0).multinomial(n[there], likely, size=(repeats, there.sum())) / n[there, None]
    drop, weak = drawn[..., 1] - drawn[..., 2], drawn[..., 0] + drawn[..., 1]
    total = drop.sum(1, keepdims=True)
    share = drop / np.where(total > 0, total, np.nan)
    values = {"relative": drop / np.where(weak > 0, weak, np.nan), "share": share, "cumulated": share.cumsum(1)}
    tails, ends = [0.5 - confidence / 2, 0.5 + confidence / 2], {}
    for name, of in values.items():
        both = np.full((2, len(n)), np.nan)
        some = ~np.isnan(of).all(0)
        at = np.flatnonzero(there)[some]
        both[:, at] = np.nanquantile(of[:, some], tails, axis=0) if some.any() else np.nan
        ends[name] = (both[0], both[1])
    return ends


def _half(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many examples of each outcome are in a random half of each class, of n // 2: (C, 4)."""
    return np.stack([rng.multivariate_hypergeometric(of_class, of_class.sum() // 2) for of_class in counts])
