"""Several models on the same examples: each beside the best one, which is known from these examples alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_number, check_seed, check_whole, unknown
from art_classwise.metrics.intervals import phi_coefficient
from art_classwise.metrics.worst import FEWEST, Pair, comparable_classes, worst_difference_ends, worst_interval, worst_p

__all__ = ["Measure", "best_worst_class", "compare_with_best"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Measure = Literal["mean", "worst"]
"""The mean over classes, or the accuracy of the worst class, each model's own."""


def compare_with_best(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    models: Sequence[str] | None = None,
    measure: Measure = "mean",
    confidence: float = 0.95,
    repeats: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each of several models with the best of the others, on the same examples.

    Whoever compares with the model that looks best finds differences where there are none: of 20 equal models one is
    lucky. Here all pairs are compared at once, so it doesn't matter which is the best, nor which row is read.

    For the mean over classes, differences are divided by their standard errors (of a sample stratified by class, as in
    :func:`mean_difference`), and ``repeats`` draws from the normal distribution with the models' covariances tell how
    large the largest is among equal models (Tukey's and Kramer's intervals, for models that go together). For the worst
    class, intervals are those of :func:`worst_class_difference`, and errors are divided by the number of pairs.

    - ``p_adjusted``, of being one of the best: for the mean that of the model confidence set (Hansen, Lunde and Nason
      2011, Econometrica 79, 453-497), which leaves the worst out one by one. Where all are equal, any of them is at
      most 0.05 in at most 5 % of the data sets; a model is better than all others if all of theirs are at most 0.05.
    - The interval of a rank counts which models are better or worse beyond doubt: of this model alone (``rank_low``,
      ``rank_high``; Mogstad, Romano, Shaikh and Wilhelm 2024), and of all at once (``all_ranks_low``,
      ``all_ranks_high``; Al Mohamad, Goeman and van Zwet 2018).

    Args:
        y: True labels, ints (n,).
        correct: Whether each model got each example right, or whether it withstood, bool (m, n), m at least 2.
        n_classes: Number of classes, C.
        models: Names of the models, the index of the result; the numbers 0 to m - 1 if absent.
        measure: ``"mean"`` over classes, or ``"worst"`` class.
        confidence: Coverage of the intervals.
        repeats: Number of draws, at least 100; for the mean.
        seed: Of the draws.

    Returns:
        A row per model, the best first: ``accuracy``; ``accuracy_low``, ``accuracy_high``, which hold for all models at
        once, so also for the one that was chosen as the best; ``difference`` from the best of the others, which is
        positive for the best alone, ``difference_low``, ``difference_high``, for all models at once; ``p_adjusted``;
        ``rank``, 1 for the best, of equals the smaller, with the intervals above. The worst class isn't sought among
        classes with a single example, unless none has more.

    Raises:
        InputError: There are fewer than two models, arrays that don't fit or aren't bool, labels out of range, no
            examples, names that aren't as many as models or not unique, or an option out of range.

    Example:
        >>> y, correct = [0] * 100 + [1] * 100, [[True] * 150 + [False] * 50, [True] * 100 + [False] * 100]
        >>> compare_with_best(y, correct, 2, models=["a", "b"])[["accuracy", "difference", "rank", "rank_high"]]
               accuracy  difference  rank  rank_high
        model
        a          0.75        0.25     1          1
        b          0.50       -0.25     2          2
    """
    if measure not in get_args(Measure):
        raise unknown("measure", measure, get_args(Measure))
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_whole("repeats", repeats, 100)
    check_seed(seed)
    truth, right = _check(y, correct, n_classes, at_least=2)
    names = _names(models, len(right))
    alpha = 1 - confidence
    if measure == "mean":
        table = _of_means(truth, right, alpha, repeats, np.random.default_rng(seed))
    else:
        table = _of_worst(truth, right, n_classes, alpha)
    table["rank"] = table["accuracy"].rank(ascending=False, method="min").astype(int)
    table = table.set_axis(pd.Index(names, name="model"))
    order = ["accuracy", "accuracy_low", "accuracy_high", "difference", "difference_low", "difference_high"]
    ranks = ["rank", "rank_low", "rank_high", "all_ranks_low", "all_ranks_high"]
    return table[[*order, "p_adjusted", *ranks]].sort_values("accuracy", ascending=False, kind="stable")


def best_worst_class(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    models: Sequence[str] | None = None,
    confidence: float = 0.95,
    repeats: int = 200,
    seed: int = 0,
) -> pd.Series[Any]:
    """Return the accuracy of the worst class of the model that has the best one of several, with an interval.

    The best of several is too good, being chosen for its luck, and the worst of several classes too bad. So the model
    and its worst class are chosen on a random half of the examples of each class, and measured on the other half, both
    in turn; the mean over many splits is the estimate. The interval holds for the worst class of the chosen model,
    whichever that is: it is that of :func:`worst_class` with the error divided by the number of models.

    Args:
        y: True labels, ints (n,).
        correct: Whether each model got each example right, or whether it withstood, bool (m, n).
        n_classes: Number of classes, C.
        models: Names of the models; the numbers 0 to m - 1 if absent.
        confidence: Coverage of the interval.
        repeats: Number of random splits.
        seed: Of the splits.

    Returns:
        ``model``, the one with the largest minimum on all examples, of equals the first; ``accuracy``, the estimate,
        ``low``, ``high`` (widened to hold the estimate); ``naive``, the plain largest minimum; ``left_out``, the number
        of classes with a single example, which are left out.

    Raises:
        InputError: As :func:`compare_with_best`, or no class has 2 examples.

    Example:
        >>> y, correct = [0] * 100 + [1] * 100, [[True] * 150 + [False] * 50, [True] * 100 + [False] * 100]
        >>> best_worst_class(y, correct, 2, models=["a", "b"])[["model", "naive"]].to_dict()
        {'model': 'a', 'naive': 0.5}
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_whole("repeats", repeats, 1)
    check_seed(seed)
    truth, right = _check(y, correct, n_classes, at_least=1)
    names = _names(models, len(right))
    k, n, large, left_out = _large_counts(truth, right, n_classes)
    if n.max() < FEWEST:
        raise InputError("No class has 2 examples: one half chooses the worst class, and the other measures it.")
    naive = (k / n).min(1)
    best = int(naive.argmax())
    measured, rng = 0.0, np.random.default_rng(seed)
    inside = np.flatnonzero(np.isin(truth, large))
    of, starts, n_first = truth[inside], np.cumsum(n) - n, n // 2
    half = np.arange(n.sum()) - np.repeat(starts, n) < np.repeat(n_first, n)
    for _ in range(repeats):
        shuffled = inside[np.lexsort((rng.random(len(of)), of))][half]  # class by class, the first half of each
        of_half = np.add.reduceat(right[:, shuffled], np.cumsum(n_first) - n_first, axis=1, dtype=np.int64)
        one, other = of_half / n_first, (k - of_half) / (n - n_first)
        for seen, unseen in ((one, other), (other, one)):
            chosen = int(seen.min(1).argmax())
            lowest = seen[chosen] == seen[chosen].min()
            measured += float(unseen[chosen][lowest].mean()) / (2 * repeats)
    measured = min(measured, float((k / n).mean(1).max()))
    low, high = worst_interval(k[best], n, (1 - confidence) / len(right))
    return pd.Series(
        {
            **{"model": names[best], "accuracy": measured, "low": min(low, measured), "high": max(high, measured)},
            **{"naive": float(naive[best]), "left_out": left_out},
        },
        dtype=object,  # a model that is a number stays one
    )


def _of_means(truth: npt.NDArray[np.int64], right: Bools, alpha: float, repeats: int, rng: Any) -> pd.DataFrame:
    accuracy, covariance, least = _mean_covariance(truth, right)
    m = len(accuracy)
    # What is least known of each difference, so that models that agree throughout aren't equal for certain.
    covariance = covariance + np.eye(m) * least / 2
    variance = covariance.diagonal()
    errors = np.sqrt(variance[:, None] + variance - 2 * covariance)
    np.fill_diagonal(errors, np.inf)
    values, vectors = np.linalg.eigh(covariance)
    drawn = rng.standard_normal((repeats, m)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    difference = accuracy[:, None] - accuracy
    t = difference / errors

    # The largest of each model against all others, in each draw.
    largest = np.stack([(np.abs(drawn[:, i, None] - drawn) / errors[i]).max(1) for i in range(m)], 1)
    everywhere = largest.max(1)
    apart = np.quantile(everywhere, 1 - alpha) * errors
    ranks = _ranks(difference, np.quantile(largest, 1 - alpha, axis=0)[:, None] * errors, apart)

    # Leave out the worst, one by one; then see how unequal those that remained were.
    left, order, observed = np.ones(m, bool), [], []
    for _ in range(m - 1):
        inside = np.where(left[:, None] & left, t, -np.inf)
        observed.append(inside.max())
        order.append(int(inside.max(0).argmax()))
        left[order[-1]] = False
    remaining, so_far = [int(np.flatnonzero(left)[0])], np.zeros(repeats)
    p = np.ones(m)
    for i, statistic in zip(reversed(order), reversed(observed), strict=True):
        so_far = np.maximum(so_far, (np.abs(drawn[:, i, None] - drawn[:, remaining]) / errors[i, remaining]).max(1))
        p[i] = (1 + np.count_nonzero(so_far >= statistic - 1e-12)) / (1 + repeats)
        remaining.append(i)
    for i, j in zip(order[1:], order, strict=False):
        p[i] = max(p[i], p[j])
    alone = -ndtri(-np.expm1(np.log1p(-alpha) / m) / 2) * np.sqrt(variance)
    np.fill_diagonal(apart, np.inf)
    return pd.DataFrame(
        {
            "accuracy": accuracy,
            "accuracy_low": np.maximum(accuracy - alone, 0),
            "accuracy_high": np.minimum(accuracy + alone, 1),
            **_from_best(difference, difference - apart, difference + apart),
            "p_adjusted": p,
            **ranks,
        }
    )


def _of_worst(truth: npt.NDArray[np.int64], right: Bools, n_classes: int, alpha: float) -> pd.DataFrame:
    k, n, large, _ = _large_counts(truth, right, n_classes)
    m = len(right)
    both = np.empty((m, m, len(n)), dtype=np.int64)
    for i, c in enumerate(large):
        of_class = right[:, truth == c].astype(np.float64)
        both[:, :, i] = np.rint(of_class @ of_class.T)
    pairs = np.array(list(combinations(range(m), 2)))
    one, other = pairs.T
    accuracy = (k / n).min(1)
    difference = accuracy[:, None] - accuracy

    def pair(one: Any, other: Any) -> Pair:
        shared = both[one, other]
        phi = phi_coefficient(shared, k[one] - shared, k[other] - shared, n - k[one] - k[other] + shared)
        return Pair(k[one], k[other], n, phi)

    def ends(level: float) -> tuple[Floats, Floats]:
        low, high = np.full((m, m), -np.inf), np.full((m, m), np.inf)
        low[one, other], high[one, other] = worst_difference_ends(pair(one, other), level)
        low[other, one], high[other, one] = -high[one, other], -low[one, other]
        return low, high

    low, high = ends(alpha / len(pairs))
    own_low, own_high = ends(alpha / (m - 1))
    best = int(accuracy.argmax())
    others = np.delete(np.arange(m), best)
    p = np.ones(m)
    p[others] = np.minimum(worst_p(pair(np.full(m - 1, best), others)) * len(pairs), 1)
    p[accuracy == accuracy[best]] = 1.0
    alone = np.array([worst_interval(of_model, n, alpha / m) for of_model in k])
    return pd.DataFrame(
        {
            **{"accuracy": accuracy, "accuracy_low": alone[:, 0], "accuracy_high": alone[:, 1]},
            **_from_best(difference, low, high),
            "p_adjusted": p,
            **_counted(own_low, own_high, "rank"),
            **_counted(low, high, "all_ranks"),
        }
    )


def _from_best(difference: Floats, low: Floats, high: Floats) -> dict[str, Floats]:
    """Return each model's difference from the best of the others, and its ends: those of the smallest."""
    off = np.where(np.eye(len(difference), dtype=bool), np.inf, 0.0)
    lowest = np.where(off > 0, np.inf, low).min(1)
    return {
        "difference": (difference + off).min(1),
        "difference_low": np.maximum(lowest, -1.0),
        "difference_high": np.minimum((high + off).min(1), 1.0),
    }


def _ranks(difference: Floats, own: Floats, everywhere: Floats) -> dict[str, npt.NDArray[np.int64]]:
    own, everywhere = (np.where(np.isfinite(half), half, np.inf) for half in (own, everywhere))
    return {
        **_counted(difference - own, difference + own, "rank"),
        **_counted(difference - everywhere, difference + everywhere, "all_ranks"),
    }


def _counted(low: Floats, high: Floats, name: str) -> dict[str, npt.NDArray[np.int64]]:
    """Return the ends of the ranks: 1 and those that are better beyond doubt, m less those that are worse."""
    return {f"{name}_low": 1 + (high < 0).sum(1), f"{name}_high": len(low) - (low > 0).sum(1)}


def _mean_covariance(truth: npt.NDArray[np.int64], right: Bools) -> tuple[Floats, Floats, float]:
    """Return the models' means over classes (m,), their covariances (m, m), and what to add to a difference's variance.

    The last as of :func:`art_classwise.metrics.mean_difference`: one example on which two differ, a part of it in each
    class. Classes of one example take the covariance of all classes pooled.
    """
    there, of = np.unique(truth, return_inverse=True)
    n = np.bincount(of)
    n_there = len(there)
    order = np.argsort(of, kind="stable")
    x, of = right[:, order].astype(np.float64), of[order]
    starts = np.concatenate([[0], np.cumsum(n)[:-1]])
    means = np.add.reduceat(x, starts, axis=1) / n
    around = x - means[:, of]
    free = (n - 1).sum()
    pooled = around @ around.T / free if free else x @ x.T / len(of)
    weights = np.where(n > 1, 1 / np.sqrt(np.maximum(n * (n - 1), 1)), 0)[of] / n_there
    weighted = around * weights
    covariance = weighted @ weighted.T + np.count_nonzero(n == 1) * pooled / n_there**2
    return means.mean(1), covariance, float((1 / n**2).sum()) / n_there**3


def _large_counts(
    truth: npt.NDArray[np.int64], right: Bools, n_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return right ones (m, L) and examples (L,) of the L classes with enough, which they are, and how many aren't."""
    n = np.bincount(truth, minlength=n_classes)
    large = comparable_classes(n)
    k = np.stack([np.bincount(truth[one], minlength=n_classes) for one in right])
    return k[:, large], n[large], large, int(np.count_nonzero(n)) - len(large)


def _check(
    y: npt.ArrayLike, correct: npt.ArrayLike, n_classes: int, *, at_least: int
) -> tuple[npt.NDArray[np.int64], Bools]:
    check_whole("n_classes", n_classes, 1)
    right = np.asarray(correct)
    if right.ndim != 2 or len(right) < at_least or right.shape[1] == 0 or right.dtype != bool:
        many = "two models or more" if at_least == 2 else "a model or more"
        raise InputError(
            f"`correct` must be True or False for each of {many} and each example, (m, n), but is {right.dtype} of "
            f"shape {right.shape}."
        )
    return check_labels(y, right.shape[1], n_classes, x_name="correct"), right


def _names(models: Sequence[str] | None, m: int) -> list[Any]:
    names = list(range(m)) if models is None else list(models)
    if len(names) != m or len(set(names)) != m:
        raise InputError(f"There are {m} models, so there must be as many different names, but got {len(set(names))}.")
    return names
