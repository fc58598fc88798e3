"""Several trainings of a recipe on the same examples: intervals that allow for other seeds and for other examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr, stdtrit

from art_classwise._core.labels import check_labels, class_names
from art_classwise.errors import InputError, check_number, check_whole
from art_classwise.metrics.comparison import holm

__all__ = ["MEAN", "accuracy_over_seeds", "crossed", "difference_over_seeds"]

Floats = npt.NDArray[np.float64]
MEAN = "mean over classes"
"""The name of the last row, beside the classes."""


def accuracy_over_seeds(
    y: npt.ArrayLike,
    correct: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return class accuracies of a recipe, trained with several seeds, with an interval over seeds and examples.

    An interval over seeds alone holds for these examples, one over examples alone for these networks. Here both are
    drawn, seeds crossed with examples (a random-effects analysis of variance, e.g. Searle, Casella and McCulloch 1992,
    chapter 4): the variance of a mean over m seeds and n examples is (MS_seeds + MS_examples - MS_rest) / (m n), at
    least each of the first two parts, with Satterthwaite's degrees of freedom and Student's t. Of few seeds a class's
    MS_seeds may be small by chance, so it counts as no smaller than the mean over classes. The ends are Wilson's for as
    many independent examples as would give that variance. Of the mean over classes, the examples' parts are added class
    by class; the seeds' is that of the seeds' means.

    Simulated at 95 %, it covered a class in 95 % to 100 % and the mean in 91 % to 98 % with 3 seeds or more, with 2 in
    89 % to 96 %; over seeds alone the true class accuracy is covered in 36 % to 79 %.

    Args:
        y: True labels, ints (n,).
        correct: Whether the network of each seed got each example right, or whether it withstood, bool (m, n), m at
            least 2.
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of each interval.

    Returns:
        A row per class, in their order, then ``"mean over classes"``: ``n``, examples; ``accuracy``, ``low``, ``high``
        (fractions); ``seeds_share``, the part of the variance that more seeds would lessen. NaN for a class without
        examples.

    Raises:
        InputError: There are fewer than two seeds, arrays that don't fit or aren't bool, labels out of range, no
            examples, names that aren't as many as classes, or an option out of range.

    Example:
        >>> y, correct = [0] * 50 + [1] * 50, [[True] * 30 + [False] * 70, [True] * 40 + [False] * 60]
        >>> accuracy_over_seeds(y, correct, 2).round(2)[["accuracy", "low", "high"]]
                           accuracy   low  high
        class
        0                      0.70  0.17  0.96
        1                      0.00  0.00  0.76
        mean over classes      0.35  0.13  0.67
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    truth, right = _checked(y, correct, n_classes, "correct")
    names = class_names(classes, n_classes)
    table, variance, free = crossed(truth, right.astype(np.float64), n_classes)
    p, n = table["estimate"].to_numpy(), table["n"].to_numpy(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of all or none right: of n examples that come out alike with every seed.
        size = np.where((variance > 0) & (p * (1 - p) > 0), p * (1 - p) / variance, n)
        low, high = _score_ends(p, size, np.asarray(stdtrit(free, 0.5 + confidence / 2), np.float64))
    found = pd.DataFrame(
        {"n": table["n"], "accuracy": p, "low": low, "high": high, "seeds_share": table["seeds_share"]}
    )
    return found.set_axis(pd.Index([*names, MEAN], name="class"))


def difference_over_seeds(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how two recipes differ that were trained with the same seeds, over seeds and examples.

    Row i of both is of one seed: the same first weights, order of batches, and so on. The differences of the two on
    each example are analysed as :func:`accuracy_over_seeds` does the outcomes of one recipe; intervals and tests are
    Student's.

    Args:
        y: True labels, ints (n,).
        first: Whether the first recipe's network of each seed got each example right, bool (m, n), m at least 2.
        second: The same of the second, bool (m, n).
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of each interval.

    Returns:
        A row per class, in their order, then ``"mean over classes"``: ``n``; ``first``, ``second``, their accuracies;
        ``difference``, first minus second, ``low``, ``high``; ``p``, of no difference; ``p_adjusted``, by Holm over the
        classes, which the mean isn't among; ``seeds_share``, as there.

    Raises:
        InputError: As :func:`accuracy_over_seeds`, or the two differ in the number of seeds.

    Example:
        >>> y, first = [0] * 50 + [1] * 50, [[True] * 90 + [False] * 10, [True] * 86 + [False] * 14]
        >>> second = [[True] * 70 + [False] * 30, [True] * 68 + [False] * 32]
        >>> difference_over_seeds(y, first, second, 2).loc[1, ["first", "second", "difference"]].round(2).to_dict()
        {'first': 0.76, 'second': 0.38, 'difference': 0.38}
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    truth, a = _checked(y, first, n_classes, "first")
    _, b = _checked(y, second, n_classes, "second")
    if len(a) != len(b):
        raise InputError(f"Seeds are paired, but the first recipe has {len(a)} of them and the second {len(b)}.")
    names = class_names(classes, n_classes)
    sides = [crossed(truth, side.astype(np.float64), n_classes)[0]["estimate"] for side in (a, b)]
    # One seed's example on which the two differ is added, or two that agree throughout would do so for certain.
    table, variance, free = crossed(truth, a.astype(np.float64) - b, n_classes, least=1 / len(a))
    difference = table["estimate"].to_numpy()
    error = np.sqrt(variance)
    half = stdtrit(free, 0.5 + confidence / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.minimum(2 * stdtr(free, -np.abs(difference) / error), 1)
    found = {
        **{"n": table["n"], "first": sides[0], "second": sides[1], "difference": difference},
        **{"low": np.maximum(difference - half, -1), "high": np.minimum(difference + half, 1)},
        **{"p": p, "p_adjusted": np.append(holm(p[:-1]), np.nan), "seeds_share": table["seeds_share"]},
    }
    return pd.DataFrame(found).set_axis(pd.Index([*names, MEAN], name="class"))


def crossed(
    truth: npt.NDArray[np.int64], values: Floats, n_classes: int, *, least: float = 0.0
) -> tuple[pd.DataFrame, Floats, Floats]:
    """Return the means of seeds by examples, by class and over classes, with their variances and degrees of freedom.

    Args:
        truth: Labels (n,).
        values: (m, n), of m seeds.
        n_classes: Number of classes, C.
        least: What to add to a class's sum of squares over examples.

    Returns:
        Rows of the C classes, then of the mean over those with examples: ``n``, ``estimate``, ``seeds_share``; and two
        arrays (C + 1,), the variances and Satterthwaite's degrees of freedom.
    """
    m = len(values)
    n = np.bincount(truth, minlength=n_classes)
    order = np.argsort(truth, kind="stable")
    there = n > 0
    of_seed = np.full((m, n_classes), np.nan)
    starts = (np.cumsum(n) - n)[there]
    of_seed[:, there] = np.add.reduceat(values[:, order], starts, axis=1) / n[there]
    estimate = of_seed.mean(0)
    of_example = values.mean(0)
    apart = of_example - estimate[truth]
    rest = values - of_example - (of_seed - estimate)[:, truth]

    def by_class(squares: Floats) -> Floats:
        return np.bincount(truth, weights=squares, minlength=n_classes).astype(np.float64)

    # Variances of a mean over n examples and m seeds: what examples, seeds and the rest account for, the rest in both.
    trials, free = np.where(there, n, np.nan), np.maximum(n - 1, 1)
    single = n == 1  # its example's part can't be known: as of all others
    pooled = by_class(apart**2).sum() / max((n - 1).sum(), 1)
    examples = (np.where(single, pooled, by_class(apart**2) / free) + least / trials) / trials
    seeds = of_seed.var(0, ddof=1) / m
    # Of few seeds a class's variance may be small by chance: no smaller than that of all classes on average.
    seeds = np.where(there, np.maximum(seeds, seeds[there].mean()), np.nan)
    remainder = np.where(single, 0, by_class((rest**2).sum(0)) / (m - 1) / free) / (m * trials)
    count = there.sum()
    means = np.nanmean(of_seed, axis=1)
    examples = np.append(examples, np.nansum(examples) / count**2)
    remainder = np.append(remainder, np.nansum(remainder) / count**2)
    seeds = np.append(seeds, means.var(ddof=1) / m)
    variance = np.maximum(examples + seeds - remainder, np.maximum(examples, seeds))
    n_free = np.append(free, max((n[there] - 1).sum(), 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / (seeds**2 / (m - 1) + examples**2 / n_free + remainder**2 / ((m - 1) * n_free))
        share = np.where(variance > 0, seeds / variance, np.nan)
    freedom = np.where(np.isfinite(freedom), np.maximum(freedom, 1), n_free)
    table = pd.DataFrame(
        {"n": np.append(n, n.sum()), "estimate": np.append(estimate, means.mean()), "seeds_share": share}
    )
    return table, variance, freedom


def _score_ends(p: Floats, size: Floats, quantile: Floats) -> tuple[Floats, Floats]:
    """Return Wilson's ends for shares p of so many examples, with quantiles of Student's t in place of the normal's."""
    squared = quantile**2 / size
    centre, half = p + squared / 2, np.sqrt(squared * p * (1 - p) + squared**2 / 4)
    return np.maximum((centre - half) / (1 + squared), 0), np.minimum((centre + half) / (1 + squared), 1)


def _checked(
    y: npt.ArrayLike, correct: npt.ArrayLike, n_classes: int, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    check_whole("n_classes", n_classes, 1)
    right = np.asarray(correct)
    if right.ndim != 2 or len(right) < 2 or right.shape[1] == 0 or right.dtype != bool:
        raise InputError(
            f"`{name}` must be True or False for each of two seeds or more and each example, (m, n), but is "
            f"{right.dtype} of shape {right.shape}."
        )
    return check_labels(y, right.shape[1], n_classes, x_name=name), right
