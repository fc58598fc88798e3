"""Which class the examples of a class are predicted as."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError, check_number, check_seed, check_whole
from art_classwise.metrics._inputs import check_pair
from art_classwise.metrics.accuracy import Groups, class_groups, group_labels
from art_classwise.metrics.intervals import wilson

__all__ = ["asymmetry", "confusion", "confusion_pairs", "confusion_symmetry", "symmetry", "within_groups"]


def confusion(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    normalize: bool = True,
) -> pd.DataFrame:
    """Return the confusion matrix; under attack, R[i, j] of Tian et al. 2021.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        normalize: Shares of each true class instead of counts.

    Returns:
        (C, C), a row per true class, a column per predicted class. With ``normalize`` the row of a class
        without examples is NaN.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or the wrong number of names.
    """
    truth, predicted = check_pair(y, y_pred, n_classes)
    names = class_names(classes, n_classes)
    counts = np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    table = pd.DataFrame(counts, index=pd.Index(names, name="class"), columns=pd.Index(names, name="predicted"))
    if not normalize:
        return table
    totals = table.sum(axis=1)
    return table.div(totals.where(totals > 0), axis=0)


def asymmetry(matrix: npt.ArrayLike) -> float:
    """Return how far a confusion matrix is from symmetric: max over i < j of abs(R_ij - R_ji).

    Args:
        matrix: (C, C) shares of each true class, as :func:`confusion` returns them.

    Returns:
        A fraction. Pairs with a class without examples are left out; NaN if no pair is left.

    Raises:
        InputError: It is no square matrix, or a value lies outside of [0, 1].

    Example:
        >>> round(asymmetry([[0.7, 0.3], [0.1, 0.9]]), 3)
        0.2
    """
    one, other = _opposite(matrix)
    return float(np.abs(one - other).max()) if len(one) else math.nan


def symmetry(matrix: npt.ArrayLike) -> float:
    """Return how well R_ij agrees with R_ji: their intraclass correlation (Fisher 1925) over the pairs i < j.

    That is Pearson's correlation with each pair entered both ways round. Entered once, it would depend on the order of
    the classes, which decides which of the two is R_ij; and it would be 1 wherever one is a linear function of the
    other, where this is 1 for a symmetric matrix alone. Noise in the shares lowers it.

    Args:
        matrix: (C, C) shares of each true class, as :func:`confusion` returns them.

    Returns:
        From -1 to 1. Pairs with a class without examples are left out; NaN if fewer than two are left, or if all
        shares are equal.

    Raises:
        InputError: It is no square matrix, or a value lies outside of [0, 1].

    Example:
        >>> symmetry([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.2, 0.1, 0.7]])
        1.0
    """
    one, other = _opposite(matrix)
    both = np.concatenate([one, other])
    if len(one) < 2 or both.min() == both.max():
        return math.nan
    deviations = both - both.mean()
    return 1 - float(((one - other) ** 2).sum() / (deviations**2).sum())


def confusion_symmetry(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    n_classes: int,
    *,
    confidence: float = 0.95,
    repeats: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """Return :func:`asymmetry` and :func:`symmetry` of a confusion matrix with intervals and corrected for noise.

    Noise makes the largest difference of R_ij and R_ji larger, and their correlation smaller.

    - ``asymmetry``: the interval reaches from the largest of the low ends of all abs(R_ij - R_ji), which hold at once
      (errors divided by the number of pairs), to the largest of the high ends, each of which holds for itself: it can
      only be too low where that of the truly most asymmetric pair is. Of each pair, Newcombe's (1998), as
      :func:`confusion_pairs`. Corrected by how much larger it is in bootstrap samples, drawn as below.
    - ``symmetry``: corrected by the variances R_ij (1 - R_ij) / (n_i - 1) of the shares; those of all pairs are taken
      from the sum of squares of differences and from that around the mean. The interval is normal, with the standard
      deviation of as many bootstrap samples of the examples as ``repeats``, drawn within each class.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        n_classes: Number of classes, C.
        confidence: Coverage aimed at.
        repeats: Number of bootstrap samples.
        seed: Of the samples.

    Returns:
        Rows ``asymmetry`` and ``symmetry``: ``value``, as those functions return it; ``corrected``, ``low``, ``high``.
        NaN where the value is; ``symmetry``'s, too, where all differences may be noise. Classes with a single example
        are left out.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or an option out of range.

    Example:
        >>> y, y_pred = [0] * 100 + [1] * 100, [0] * 80 + [1] * 20 + [0] * 40 + [1] * 60
        >>> confusion_symmetry(y, y_pred, 2).loc["asymmetry", ["value", "low", "high"]].round(2).to_dict()
        {'value': 0.2, 'low': 0.07, 'high': 0.32}
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_whole("repeats", repeats, 40)
    check_seed(seed)
    counts = confusion(y, y_pred, n_classes, normalize=False).to_numpy()
    large = counts.sum(1) > 1
    n = counts.sum(1)[large]
    square, shares = counts[np.ix_(large, large)], counts[large] / n[:, None]
    share = square / n[:, None]
    table = pd.DataFrame(np.nan, index=["asymmetry", "symmetry"], columns=["value", "corrected", "low", "high"])
    if len(n) < 2:
        return table
    i, j = np.triu_indices(len(n), 1)
    value = asymmetry(share)
    ends = [
        _independent_difference(square[i, j], n[i], square[j, i], n[j], level)[1:]
        for level in (1 - (1 - confidence) / len(i), confidence)
    ]
    low = max(float(np.maximum(ends[0][0], -ends[0][1]).max()), 0.0)
    high = float(np.maximum(-ends[1][0], ends[1][1]).max())
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, shares, size=(repeats, len(n)))[:, :, np.flatnonzero(large)] / n[:, None]
    more = float(np.mean([asymmetry(of) for of in drawn])) - value
    table.loc["asymmetry"] = [value, float(np.clip(value - more, low, high)), low, high]
    plain, corrected = symmetry(share), _symmetry(share, n, 1)
    spread = float(np.nanstd([_symmetry(of, n, 2) for of in drawn])) if not math.isnan(corrected) else math.nan
    half = float(ndtri(0.5 + confidence / 2)) * spread
    table.loc["symmetry"] = [plain, corrected, max(corrected - half, -1.0), min(corrected + half, 1.0)]
    return table


def _symmetry(share: npt.NDArray[np.float64], n: npt.NDArray[np.int64], times: int) -> float:
    """Return :func:`symmetry` less what noise adds, as often as examples were drawn; NaN where it leaves nothing."""
    i, j = np.triu_indices(len(share), 1)
    one, other = share[i, j], share[j, i]
    noise = times * float((one * (1 - one) / (n[i] - 1)).sum() + (other * (1 - other) / (n[j] - 1)).sum())
    both = np.concatenate([one, other])
    around = float(((both - both.mean()) ** 2).sum()) - noise * (1 - 1 / len(both))
    return float(np.clip(1 - (((one - other) ** 2).sum() - noise) / around, -1, 1)) if around > 0 else math.nan


def confusion_pairs(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    groups: Groups | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return which class is mistaken for which, the most frequent confusion first.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        groups: Groups of classes, as :func:`class_groups` takes them.
        confidence: Coverage of the intervals, each for itself: the pairs at the top are there by chance, too.

    Returns:
        Indexed by (``class``, ``predicted``), a row for each pair of different classes that occurs: ``n``, the examples
        of the class; ``count``, those predicted as the other; ``share``, ``low``, ``high``: their share R_ij and its
        Wilson interval; ``reverse``, R_ji; ``difference``, ``difference_low``, ``difference_high``: R_ij - R_ji and its
        score interval (Newcombe 1998), NaN where the other class has no examples; with ``groups`` also ``within``,
        whether both are of one group.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, the wrong number of names, or groups
            that don't fit the classes.

    Example:
        >>> confusion_pairs([0, 0, 1, 1], [0, 1, 0, 0], 2, classes=["cat", "dog"])[["count", "share", "reverse"]]
                         count  share  reverse
        class predicted
        dog   cat            2    1.0      0.5
        cat   dog            1    0.5      1.0
    """
    counts = confusion(y, y_pred, n_classes, normalize=False).to_numpy()
    names = class_names(classes, n_classes)
    totals = counts.sum(1)
    of, predicted = np.nonzero(counts * ~np.eye(n_classes, dtype=bool))
    shares = counts[of, predicted] / totals[of]
    strongest = np.lexsort((predicted, of, -counts[of, predicted], -shares))
    of, predicted, shares = of[strongest], predicted[strongest], shares[strongest]
    count, back = counts[of, predicted], counts[predicted, of]
    low, high = wilson(count, totals[of], confidence)
    difference, difference_low, difference_high = _independent_difference(
        count, totals[of], back, totals[predicted], confidence
    )
    table = pd.DataFrame(
        {
            "n": totals[of],
            "count": count,
            "share": shares,
            "low": low,
            "high": high,
            "reverse": back / np.where(totals[predicted] > 0, totals[predicted], np.nan),
            "difference": difference,
            "difference_low": difference_low,
            "difference_high": difference_high,
        },
        index=pd.MultiIndex.from_arrays(
            [[names[i] for i in of], [names[j] for j in predicted]], names=["class", "predicted"]
        ),
    )
    if groups is not None:
        group = np.asarray(class_groups(groups, [str(name) for name in names]))
        table["within"] = group[of] == group[predicted]
    return table


def within_groups(
    y: npt.ArrayLike, y_pred: npt.ArrayLike, groups: Groups, classes: Sequence[str], *, confidence: float = 0.95
) -> pd.DataFrame:
    """Return the share of errors that stay within the group of the true class, beside what chance would give.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        groups: Groups of classes, as :func:`class_groups` takes them.
        classes: Names of the C classes.
        confidence: Coverage of the Wilson interval.

    Returns:
        A row per group, sorted by name, and last one of all, ``all groups``: ``n``, examples; ``errors``; ``within``,
        ``low``, ``high``: the share of the errors that stay within the group, NaN without errors; ``expected``: that
        share if errors fell on all other classes alike, (m - 1) / (C - 1) in a group of m classes.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or groups that don't fit the classes.

    Example:
        >>> table = within_groups([0, 0, 1], [1, 2, 2], "transport-animal", ["cat", "dog", "ship"])
        >>> table[["errors", "within", "expected"]]
                    errors    within  expected
        group
        animal           3  0.333333       0.5
        transport        0       NaN       0.0
        all groups       3  0.333333       0.5
    """
    truth, predicted = check_pair(y, y_pred, len(classes))
    of, names = group_labels(truth, groups, classes)
    stays = of == group_labels(predicted, groups, classes)[0]
    sizes = np.bincount(group_labels(np.arange(len(classes)), groups, classes)[0])
    wrong = truth != predicted

    def by_group(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        counts = np.bincount(of[chosen], minlength=len(names))
        return np.append(counts, counts.sum())

    n, errors, stayed = by_group(np.ones_like(wrong)), by_group(wrong), by_group(wrong & stays)
    low, high = wilson(stayed, errors, confidence)
    some = np.where(errors > 0, errors, np.nan)
    expected = (sizes - 1) / (len(classes) - 1) if len(classes) > 1 else np.full(1, np.nan)
    overall = (errors[:-1] * expected).sum() / some[-1]
    columns = {
        "n": n,
        "errors": errors,
        "within": stayed / some,
        "low": low,
        "high": high,
        "expected": np.append(expected, overall),
    }
    return pd.DataFrame(columns, index=pd.Index([*names, "all groups"], name="group"))


def _opposite(matrix: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return R_ij and R_ji of the pairs i < j of which both are known."""
    shares = np.asarray(matrix, dtype=np.float64)
    if shares.ndim != 2 or shares.shape[0] != shares.shape[1]:
        raise InputError(f"The confusion must be a matrix (C, C), but has shape {shares.shape}.")
    outside = shares[(shares < 0) | (shares > 1)]
    if len(outside):
        raise InputError(
            f"The confusion must hold shares of each true class, in [0, 1], but holds {outside[0]:g}: of "
            "counts, divide each row by its sum."
        )
    i, j = np.triu_indices(len(shares), 1)
    known = ~np.isnan(shares[i, j] + shares[j, i])
    return shares[i, j][known], shares[j, i][known]


def _independent_difference(
    first: npt.NDArray[np.int64],
    n_first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    n_second: npt.NDArray[np.int64],
    confidence: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the difference of proportions of different examples and its score interval.

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10: the distances to the Wilson ends, squared and added.
    """
    (low1, high1), (low2, high2) = wilson(first, n_first, confidence), wilson(second, n_second, confidence)
    p1, p2 = (k / np.where(n > 0, n, np.nan) for k, n in ((first, n_first), (second, n_second)))
    difference = p1 - p2
    return difference, difference - np.hypot(p1 - low1, high2 - p2), difference + np.hypot(high1 - p1, p2 - low2)
