"""What a class loses without attack, and what the attack adds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError
from art_classwise.metrics._inputs import check_outcomes
from art_classwise.metrics.accuracy import class_counts

__all__ = ["risks"]


def risks(
    y: npt.ArrayLike,
    clean_correct: npt.ArrayLike,
    withstood: npt.ArrayLike,
    n_classes: int,
    *,
    pooled: bool = False,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the natural, the boundary and the robust risk of each class (Xu et al. 2021, FRL).

    - ``r_nat`` = 1 - clean accuracy: the share that is wrong without attack
    - ``r_bndy`` = clean - robust accuracy: the share that is right without attack, but not under it
    - ``r_rob`` = ``r_nat`` + ``r_bndy``: the share that doesn't withstand

    Args:
        y: True labels, ints (n,).
        clean_correct: Whether each example is right without attack, bool (n,).
        withstood: Whether each withstood the attack, bool (n,); none does that is wrong without one.
        n_classes: Number of classes, C.
        pooled: One row instead of a row per class, of the shares among all examples. The mean over classes, which
            gives each class the same weight, is the mean of the rows without it.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of each Wilson interval.

    Returns:
        A row per class, in their order, or one row ``all`` if pooled: ``n``, and each risk with ``_low`` and
        ``_high`` (fractions). A class without examples has n = 0 and NaN.

    Raises:
        InputError: An example withstood that is wrong without attack, labels and outcomes don't fit, there are no
            examples, names are not as many as classes, or the confidence is out of range.

    Example:
        >>> clean, withstood = [True, True, True, False], [True, False, False, False]
        >>> risks([0, 0, 1, 1], clean, withstood, 2)[["r_nat", "r_bndy", "r_rob"]]
               r_nat  r_bndy  r_rob
        class
        0        0.0     0.5    0.5
        1        0.5     0.5    1.0
    """
    truth, clean = check_outcomes(y, clean_correct, n_classes, name="clean_correct")
    _, robust = check_outcomes(y, withstood, n_classes, name="withstood")
    odd = robust & ~clean
    if odd.any():
        raise InputError(
            f"Example {int(odd.argmax())} withstood, but is wrong without attack: only examples that are right can."
        )
    names = class_names(classes, n_classes)
    if pooled:
        truth, n_classes, names = np.zeros_like(truth), 1, ["all"]
    table = pd.DataFrame(index=pd.Index(names, name="class"))
    for risk, failed in {"r_nat": ~clean, "r_bndy": clean & ~robust, "r_rob": ~robust}.items():
        counted = class_counts(truth, failed, n_classes, confidence=confidence)
        table["n"] = counted["n"].to_numpy()
        for column, end in {"accuracy": "", "low": "_low", "high": "_high"}.items():
            table[risk + end] = counted[column].to_numpy()
    return table
