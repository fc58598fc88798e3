"""The worst class: its accuracy, and how those of two models differ, with intervals that allow for choosing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, betaincinv

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError, check_number, check_seed, check_whole
from art_classwise.metrics._dealing import hypergeometric
from art_classwise.metrics._inputs import check_outcomes, paired_counts
from art_classwise.metrics.intervals import phi_coefficient

__all__ = [
    "FEWEST",
    "comparable_classes",
    "worst_class",
    "worst_class_difference",
    "worst_difference_ends",
    "worst_interval",
    "worst_p",
]

FEWEST = 2
"""Examples that a class needs to be among those of which one is the worst: half of them chooses, half measures."""

_MOST = 20  # classes of one that are set against those of another

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
    That is the worst class's where one class is far below. Elsewhere the choice on half of the examples misses the
    worst class at times, and the estimate is too high: by 0.9 points with 10 classes of 1,000 that are evenly apart
    within 10 points, but by 8 with 100 classes of 100 that are close together. It is at most the mean over classes,
    which no minimum exceeds; so where all classes are equal it is too low on average, by 0.4 points with 10 classes of
    1,000 and 1.3 with 10 of 100. The interval holds all the same.

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
        ``chosen``, the share of choices that fell on it, where classes that tie share one; ``left_out``, the number of
        classes with a single example, which all of this leaves out.

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
    large = _large(n)
    left_out = int(np.count_nonzero(n)) - len(large)
    n, k = n[large], k[large]
    measured, chosen = _split(k, n, repeats, np.random.default_rng(seed))
    measured = min(measured, float((k / n).mean()))
    low, high = worst_interval(k, n, 1 - confidence)
    return pd.Series(
        {
            "accuracy": measured,
            "low": min(low, measured),
            "high": max(high, measured),
            "naive": float((k / n).min()),
            "class": names[large[chosen.argmax()]],
            "chosen": float(chosen.max()),
            "left_out": left_out,
        },
        dtype=object,  # a class that is a number stays one
    )


def worst_class_difference(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.Series[Any]:
    """Return how the worst class accuracies of two differ, each one's own worst class, with an interval and a p.

    The plain difference of two minima is off where one of the two has more classes that are about as bad. The interval
    allows for not knowing which class is the worst of either. Of all a_c - b_d, the first's worst class c and the
    second's, d, minimum a - minimum b is the largest, over d, of the smallest, over c; and it is at least a_c - b_c of
    the first's worst class c. So its low end is the larger of these:

    - the largest, over d, of the smallest, over c, of the low ends of a_c - b_d
    - the smallest, over c that can be the worst class of the first, of the low ends of a_c - b_c

    A smallest one costs nothing: it can only be too high where the end of the truly worst c is. The largest does: each
    end leaves an error of alpha / 2 for all d together (Sidak 1967) that can be the worst class of the second. Those
    are the ones whose exact lower end (Clopper and Pearson 1934) isn't above the lowest upper end, at a level that
    holds for all classes, for a tenth of the error. So classes that are clearly better cost nothing, however few
    examples they have (the two steps of Romano, Shaikh and Wolf 2014). The ends of a_c - b_d add the distances to the
    exact ends of both as Newcombe 1998 adds those to Wilson's: squared, and of one class, on the same examples, with
    their correlation (Statistics in Medicine 17, 2635-2650, method 10).

    The high end is the low end of the difference the other way round. ``p`` is the smallest error at which the interval
    leaves 0 out. How often it covered is simulated in ``evaluations/statistics``.

    Args:
        y: True labels, ints (n,).
        first: Whether the first got each example right, bool (n,).
        second: The same of the second.
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the interval.

    Returns:
        ``first_class`` and ``second_class``, the worst class of each, of equals the first; ``first`` and ``second``,
        their accuracies; ``difference``, first minus second, ``low``, ``high``; ``p``, of no difference; ``left_out``,
        the number of classes with a single example, which all of this leaves out, unless no class has more.

    Raises:
        InputError: As :func:`paired_comparison`.

    Example:
        >>> y, first = [0] * 100 + [1] * 100, [True] * 150 + [False] * 50
        >>> worst_class_difference(y, first, [True] * 120 + [False] * 80, 2).round(2)[["difference", "low"]].to_dict()
        {'difference': 0.3, 'low': 0.2}
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    counts = paired_counts(y, first, second, n_classes)
    names, large = class_names(classes, n_classes), comparable_classes(counts.sum(1))
    left_out = int(np.count_nonzero(counts.sum(1))) - len(large)
    pair = Pair.of(counts[large])
    shares = [k / pair.n for k in (pair.first, pair.second)]
    worst = [int(share.argmin()) for share in shares]
    a, b = (float(share.min()) for share in shares)
    low, high = map(float, worst_difference_ends(pair, 1 - confidence))
    return pd.Series(
        {
            **{"first_class": names[large[worst[0]]], "second_class": names[large[worst[1]]]},
            **{"first": a, "second": b, "difference": a - b, "low": low, "high": high},
            **{"p": float(worst_p(pair)), "left_out": left_out},
        },
        dtype=object,  # a class that is a number stays one
    )


class Pair(NamedTuple):
    """Two on the same examples, class by class, all with examples; or P of such pairs.

    Attributes:
        first: Number that the first got right, (..., C).
        second: Number that the second did, (..., C).
        n: Number of examples, (C,).
        phi: How they go together: :func:`art_classwise.metrics.intervals.phi_coefficient`, (..., C).
    """

    first: Counts
    second: Counts
    n: Counts
    phi: Floats

    @classmethod
    def of(cls, counts: Counts) -> Pair:
        """Return the pair of :func:`paired_counts`, (C, 4)."""
        both, first, second, neither = counts.T
        return cls(both + first, both + second, counts.sum(1), phi_coefficient(both, first, second, neither))

    def turned(self) -> Pair:
        """Return the second and the first."""
        return Pair(self.second, self.first, self.n, self.phi)


def worst_difference_ends(pair: Pair, alpha: float) -> tuple[Floats, Floats]:
    """Return the ends of the interval of min_c a_c - min_c b_c, (...), alpha / 2 to each side."""
    return _difference_low(pair, alpha / 2), -_difference_low(pair.turned(), alpha / 2)


def worst_p(pair: Pair, least: float = 1e-9) -> Floats:
    """Return the smallest alpha, from ``least`` to 1, at which the interval of the difference leaves 0 out, (...)."""
    difference = (pair.first / pair.n).min(-1) - (pair.second / pair.n).min(-1)
    turn = (difference < 0)[..., None]  # the end between the difference and 0 decides
    upper = Pair(np.where(turn, pair.second, pair.first), np.where(turn, pair.first, pair.second), pair.n, pair.phi)
    below, above = np.full(difference.shape, np.log(least)), np.zeros(difference.shape)
    for _ in range(16):  # to 0.03 %
        middle = (below + above) / 2
        left_out = _difference_low(upper, np.exp(middle) / 2) > 0
        below, above = np.where(left_out, below, middle), np.where(left_out, middle, above)
    return np.exp(above)


def _difference_low(pair: Pair, error: float | Floats) -> Floats:
    """Return the low end of min_c a_c - min_c b_c, (...), too high with this probability, a number or (...)."""
    a, b, n, phi = pair.first, pair.second, pair.n, pair.phi
    of_each = np.broadcast_to(error, a.shape[:-1])[..., None]
    may_be, candidate = (_may_be_worst(k, n, of_each / 10) for k in (a, b))
    # The first's worst class against each that can be the second's, and against itself.
    ways = candidate.sum(-1, keepdims=True) + (may_be & ~candidate).any(-1, keepdims=True)
    each = -np.expm1(np.log1p(-0.8 * of_each) / ways)
    first, second = a / n, b / n
    down, up = first - _lower(a, n, each), 1 - _lower(n - b, n, each) - second
    same = first - second - np.sqrt(np.maximum(down**2 - 2 * phi * down * up + up**2, 0))
    low = np.where(may_be, same, np.inf).min(-1)
    # More classes than these would rarely raise the largest, and leaving them out is safe.
    lowest = np.argsort(np.where(candidate, second + up, np.inf), axis=-1, kind="stable")[..., :_MOST]
    for i in range(lowest.shape[-1]):
        d = lowest[..., i, None]
        of_b, end = np.take_along_axis(second, d, -1), np.take_along_axis(up, d, -1)
        apart = first - of_b - np.sqrt(down**2 + end**2)
        np.put_along_axis(apart, d, np.take_along_axis(same, d, -1), -1)
        low = np.where(np.take_along_axis(candidate, d, -1)[..., 0], np.maximum(low, apart.min(-1)), low)
    ends: Floats = np.maximum(low, -1.0)
    return ends


def _may_be_worst(k: Counts, n: Counts, error: Floats) -> npt.NDArray[np.bool_]:
    """Return which classes can be the worst one, (..., C); it isn't among them with this probability at most."""
    level = error / len(n)
    possible: npt.NDArray[np.bool_] = _lower(k, n, level) <= (1 - _lower(n - k, n, level)).min(-1, keepdims=True)
    return possible


def _large(n: Counts) -> npt.NDArray[np.int64]:
    large = np.flatnonzero(n >= FEWEST)
    if len(large) == 0:
        raise InputError("No class has 2 examples: one half chooses the worst class, and the other measures it.")
    return large


def comparable_classes(n: Counts) -> npt.NDArray[np.int64]:
    """Return among which classes the worst is sought, by their numbers of examples: not those of one, unless all are.

    Their intervals hold for one example, too. Where others have more, leaving these out keeps to the rule of
    :func:`worst_class`.
    """
    large = np.flatnonzero(n >= FEWEST)
    return large if len(large) else np.flatnonzero(n)


def _split(k: Counts, n: Counts, repeats: int, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return the accuracy of the class chosen on the other half, and the share of choices of each class (C,)."""
    kinds, kind, alike = np.unique(np.stack([k, n]), axis=1, return_inverse=True, return_counts=True)
    kind, few = kind.ravel(), 4 * len(alike) < len(n)
    ways = [hypergeometric(right, of, of // 2) for right, of in kinds.T.tolist()] if few else []
    if few and sum(len(first) for first, _ in ways) < len(n):
        # Classes of the same counts are drawn together: how many of them get which count on the first half.
        of = np.repeat(np.arange(len(ways)), [len(first) for first, _ in ways])
        first = np.concatenate([first for first, _ in ways])
        times = np.concatenate(
            [rng.multinomial(m, chance, repeats) for m, (_, chance) in zip(alike, ways, strict=True)], axis=1
        )
        k, n = kinds[:, of]
    else:
        first = rng.hypergeometric(k, n - k, n // 2, (repeats, len(n)))  # all that a split changes is this count
        of, times, kind, alike = np.arange(len(n)), np.ones(1, np.int64), np.arange(len(n)), np.ones(len(n), np.int64)
    one, other = first / (n // 2), (k - first) / (n - n // 2)
    measured, chosen = 0.0, np.zeros(len(n))
    for seen, unseen in ((one, other), (other, one)):
        there = np.where(times > 0, seen, np.inf)
        lowest = times * (there == there.min(1, keepdims=True))
        weight = lowest / lowest.sum(1, keepdims=True)  # the mean over ties in place of a draw among them
        measured += float((weight * unseen).sum()) / (2 * repeats)
        chosen = chosen + weight.sum(0) / (2 * repeats)
    return measured, (np.bincount(of, chosen) / alike)[kind]


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


def _lower(k: Counts, n: Counts, alpha: float | Floats) -> Floats:
    """Return Clopper and Pearson's lower ends, each too high with probability alpha at most."""
    ends: Floats = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0)
    return ends
