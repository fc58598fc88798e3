"""Accuracy over the examples of one true class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._labels import check_labels, class_names
from art_classwise.errors import InputError, check_whole
from art_classwise.metrics.intervals import wilson

__all__ = ["class_accuracy", "class_counts"]


def class_accuracy(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the accuracy of each class with its Wilson interval.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the interval.

    Returns:
        A row per class, in their order: ``n``, ``accuracy``, ``low``, ``high`` (fractions). A class without
        examples has n = 0 and NaN, never 0 %.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or the wrong number of names.

    Example:
        >>> class_accuracy([0, 0, 1, 1], [0, 1, 1, 1], n_classes=3)[["n", "accuracy"]]
               n  accuracy
        class
        0      2       0.5
        1      2       1.0
        2      0       NaN
    """
    truth, predicted = check_pair(y, y_pred, n_classes)
    return class_counts(truth, truth == predicted, n_classes, classes=classes, confidence=confidence)


def class_counts(
    y: npt.NDArray[np.int64],
    correct: npt.NDArray[np.bool_],
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the share of ``correct`` examples of each class, as :func:`class_accuracy` does."""
    names = class_names(classes, n_classes)
    n = np.bincount(y, minlength=n_classes)
    k = np.bincount(y, weights=correct, minlength=n_classes)
    low, high = wilson(k, n, confidence)
    accuracy = k / np.where(n > 0, n, np.nan)
    return pd.DataFrame({"n": n, "accuracy": accuracy, "low": low, "high": high}, index=pd.Index(names, name="class"))


def check_pair(
    y: npt.ArrayLike, y_pred: npt.ArrayLike, n_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return true and predicted labels as int64 (n,), both among the classes, n at least 1."""
    truth = _check_truth(y, n_classes)
    return truth, check_labels(y_pred, len(truth), n_classes)


def check_outcomes(
    y: npt.ArrayLike, outcomes: npt.ArrayLike, n_classes: int, *, name: str = "correct"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return true labels as int64 (n,) and a verdict on each example as bool (n,), n at least 1.

    Raises:
        InputError: There are no labels, one is no class, or the verdicts are not n truth values.
    """
    truth, verdicts = _check_truth(y, n_classes), np.asarray(outcomes)
    if verdicts.shape != truth.shape:
        raise InputError(f"There are {len(truth)} labels, but `{name}` has shape {verdicts.shape}.")
    if verdicts.dtype != bool:  # 0 and 1 might be predictions of two classes
        raise InputError(
            f"`{name}` must say True or False of each example, but holds {verdicts.dtype} values: of predictions give "
            "y == y_pred."
        )
    return truth, verdicts


def paired_counts(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    names: tuple[str, str] = ("first", "second"),
) -> npt.NDArray[np.int64]:
    """Return per class how many examples withstood both times, the first time alone, the second alone, neither: (C, 4).

    Raises:
        InputError: Labels out of range, arrays of different length, no examples, or outcomes that aren't true or false.
    """
    truth, once = check_outcomes(y, first, n_classes, name=names[0])
    _, again = check_outcomes(y, second, n_classes, name=names[1])
    cell = 4 * truth + 3 - 2 * once - again
    return np.bincount(cell, minlength=4 * n_classes).reshape(n_classes, 4)


def _check_truth(y: npt.ArrayLike, n_classes: int) -> npt.NDArray[np.int64]:
    check_whole("n_classes", n_classes, 1)
    n_examples = len(np.atleast_1d(np.asarray(y)))
    if n_examples == 0:
        raise InputError("There are no labels: a metric needs at least one example.")
    return check_labels(y, n_examples, n_classes)
