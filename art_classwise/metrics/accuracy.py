"""Accuracy over the examples of one true class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import class_names
from art_classwise.metrics._inputs import check_pair
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
