"""Which class the examples of a class are predicted as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._labels import class_names
from art_classwise.metrics.accuracy import check_pair

__all__ = ["confusion"]


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
