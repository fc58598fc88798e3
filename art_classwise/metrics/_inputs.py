"""What metrics are given: labels, predictions and verdicts, checked, and counted by class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_whole

__all__ = ["check_outcomes", "check_pair", "paired_counts"]


def check_pair(
    y: npt.ArrayLike, y_pred: npt.ArrayLike, n_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return true and predicted labels as int64 (n,), both among the classes, n at least 1.

    Raises:
        InputError: There are no labels, their numbers differ, or one is no class.
    """
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
            f"`{name}` must be True or False for each example, but holds {verdicts.dtype} values: for predictions pass "
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
