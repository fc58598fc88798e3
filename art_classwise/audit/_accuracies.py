"""Accuracies of classes, or of groups of them, as tables: pure functions of the one table's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise import metrics
from art_classwise.errors import InputError
from art_classwise.metrics.accuracy import class_counts

__all__ = ["Relabel", "accuracies", "stacked", "summarised"]

Relabel: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""What makes groups of classes: (n,) -> (n,)."""


def accuracies(rows: pd.DataFrame, names: Sequence[str], group: Relabel, confidence: float) -> pd.DataFrame:
    """Return clean and robust accuracy of each class, or group, with Wilson intervals.

    Args:
        rows: Outcomes of one model under one attack.
        names: Of the classes, or groups.
        group: Returns the group of each label.
        confidence: Coverage of the intervals.

    Returns:
        Indexed by name: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``low``, ``high``.
    """
    truth = rows["label"].to_numpy().astype(np.int64)
    label = group(truth)
    options: dict[str, Any] = {"classes": names, "confidence": confidence}
    clean = class_counts(label, truth == rows["clean_prediction"].to_numpy(), len(names), **options)
    robust = class_counts(label, rows["withstood"].to_numpy(), len(names), **options)
    clean.columns = pd.Index(["n", "clean", "clean_low", "clean_high"])
    robust.columns = pd.Index(["n", "robust", "low", "high"])
    return pd.concat([clean, robust.drop(columns="n")], axis=1)


def stacked(
    tables: Sequence[pd.DataFrame], models: Sequence[str], attacks: Sequence[str], names: Sequence[str], kind: str
) -> pd.DataFrame:
    """Return :func:`accuracies` of each model under each attack as one table.

    Args:
        tables: Of the first model under each attack, then of the next.
        models: Their names.
        attacks: Their names.
        names: Of the classes, or groups.
        kind: What those are: the last level of the index, after ``model`` and ``attack``.
    """
    # Levels in the order given, not sorted by name: then the index is sorted, and look-ups are fast.
    codes = np.indices((len(models), len(attacks), len(names))).reshape(3, -1)
    levels = [list(models), list(attacks), list(names)]
    index = pd.MultiIndex(levels=levels, codes=list(codes), names=["model", "attack", kind])
    return pd.concat(tables).set_axis(index)


def summarised(rows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return what one model reaches under one attack, and how unequally: see :meth:`AuditResult.summary`.

    Args:
        rows: Outcomes of the model under the attack.
        classes: The class names.
    """
    table = accuracies(rows, classes, lambda label: label, 0.95)
    label, withstood = rows["label"].to_numpy().astype(np.int64), rows["withstood"].to_numpy()
    row: dict[str, Any] = {
        "clean": table["clean"].mean(),
        **metrics.disparity(table["robust"].to_numpy()),
        "worst_class": table["robust"].idxmin(),
        **dict.fromkeys(("held_out", "low", "high", "p"), np.nan),
    }
    if not (table["n"] == 1).any():  # a class that can't be split may be the worst
        worst = metrics.worst_class(label, withstood, len(classes))
        row |= {"held_out": worst["accuracy"], "low": worst["low"], "high": worst["high"]}
    with suppress(InputError):  # a single class has examples
        row["p"] = metrics.disparity_test(label, withstood, len(classes))["p"]
    return row
