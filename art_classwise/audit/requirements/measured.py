"""What a requirement is held against: a number, its interval, and from how many examples they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise import metrics
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.requirements.grammar import Requirement
from art_classwise.errors import InputError, first_line

if TYPE_CHECKING:
    from art_classwise.audit.outcomes import AuditTable

__all__ = ["Measured", "Pair", "of_comparison", "of_model"]

_OVER_CLASSES = frozenset({"mean", "worst", "gap", "tail20", "sd", "nsd", "cv", "gini"})
_DISPARITY = {"gap": "mcd"}


class Pair(NamedTuple):
    """Two that are compared.

    Attributes:
        first: Name of the first.
        second: Name of the second.
        about: What is compared, in words.
        n: Of how many examples.
        confidence: Coverage of the intervals.
        differences: First minus second, by the name of the measure, ``difference``, ``low`` and ``high``.
        by_class: The same of each class, and ``n``.
    """

    first: str
    second: str
    about: str
    n: int
    confidence: float
    differences: Mapping[str, pd.Series[Any]]
    by_class: pd.DataFrame


class Measured(NamedTuple):
    """A number with its interval.

    Attributes:
        value: As tables show it; NaN where it isn't known.
        low: The low end.
        high: The high end.
        n: Of how many examples.
        reason: Why a requirement can't be judged by it, a sentence; None if it can.
    """

    value: float
    low: float
    high: float
    n: int
    reason: str | None = None

    @classmethod
    def unknown(cls, reason: str, n: int = 0) -> Measured:
        """Return what stands for a number that isn't known."""
        return cls(math.nan, math.nan, math.nan, n, reason)

    def checked(self, on_estimate: bool) -> Measured:
        """Return it with a reason where the number or an end that is needed isn't known."""
        if self.reason is not None:
            return self
        if not math.isfinite(self.value):
            return self._replace(reason="Its value isn't known (NaN).")
        if not on_estimate and not (math.isfinite(self.low) and math.isfinite(self.high)):
            return self._replace(reason="Its interval isn't known (NaN).")
        return self


def of_model(result: AuditTable, requirement: Requirement, model: str, confidence: float) -> Measured:
    """Return the accuracy, or what is made of it, that a requirement asks for.

    Args:
        result: The audit, which has the model and the classes.
        requirement: About accuracies or examples of a model.
        model: Name of the model.
        confidence: Coverage of the interval.
    """
    rows = result.rows(model, requirement.attack or WORST_CASE)
    label = rows["label"].to_numpy().astype(np.int64)
    if requirement.measure == "examples":
        return Measured(len(label), len(label), len(label), len(label))
    right = rows["withstood"].to_numpy()
    if requirement.kind == "clean":
        right = rows["clean_prediction"].to_numpy() == label
    measured = _measured(label, right, result.classes, requirement, confidence)
    return measured.checked(requirement.on_estimate)


def _measured(
    label: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    classes: Sequence[str],
    requirement: Requirement,
    confidence: float,
) -> Measured:
    measure, n = requirement.measure, len(label)
    if measure == "class":
        of = label == classes.index(str(requirement.name))
        if not of.any():
            return Measured.unknown("The class has no example in this audit.")
        return _share(right[of], confidence)
    if measure == "overall":
        return _share(right, confidence)
    lacking = _lacking(np.bincount(label, minlength=len(classes)), classes, 1 if measure == "mean" else 2)
    if lacking is not None:
        return Measured.unknown(lacking, n)
    try:
        shares = right.dtype != bool  # of corruptions that each example is right under
        if measure == "mean":
            find_mean = metrics.mean_share if shares else metrics.mean_accuracy
            mean = find_mean(label, right, len(classes), confidence=confidence)
            return Measured(mean["mean"], mean["low"], mean["high"], n)
        if measure == "worst":
            find_worst = metrics.worst_share if shares else metrics.worst_class
            worst = find_worst(label, right, len(classes), confidence=confidence)
            return Measured(worst["naive"], min(worst["low"], worst["naive"]), worst["high"], n)
        if shares:
            return Measured.unknown("Of the mean of several corruptions its interval isn't known: name one.", n)
        table = metrics.disparity_intervals(label, right, len(classes), confidence=confidence)
    except InputError as error:  # too few examples
        return Measured.unknown(first_line(error), n)
    rows: dict[Any, dict[Any, float]] = table.to_dict("index")
    value, low, high = (rows[_DISPARITY.get(measure, measure)][key] for key in ("value", "low", "high"))
    if math.isnan(value):
        return Measured.unknown("It is divided by the mean of the class accuracies, which is 0.", n)
    # These intervals are about corrected values, and where noise is all there is the plain one lies outside.
    return Measured(value, min(low, value), max(high, value), n)


def _share(right: npt.NDArray[np.bool_], confidence: float) -> Measured:
    if right.dtype != bool:
        row = metrics.class_shares(np.zeros(len(right), np.int64), right, 1, confidence=confidence).iloc[0]
        return Measured(float(row["accuracy"]), float(row["low"]), float(row["high"]), len(right))
    low, high = metrics.wilson(int(right.sum()), len(right), confidence)
    return Measured(float(right.mean()), float(low), float(high), len(right))


def _lacking(counts: npt.NDArray[np.int64], classes: Sequence[str], least: int) -> str | None:
    """Return why a measure over all classes can't be judged: what isn't there may be the worst of them."""
    few = [name for name, n in zip(classes, counts, strict=True) if n < least]
    if not few:
        return None
    shown = f"{', '.join(few[:3])}{f' and {len(few) - 3} more' if few[3:] else ''}"
    number = "no example" if least == 1 or not counts.max(initial=0) else "fewer than two examples"
    return (
        f"{len(few)} of {len(classes)} classes {'has' if len(few) == 1 else 'have'} {number}: {shown}. Audit more "
        "examples, or require classes by name, class:NAME, or overall."
    )


def of_comparison(comparison: Pair, requirement: Requirement) -> Measured:
    """Return the difference that a requirement asks for, first minus second.

    Args:
        comparison: The two.
        requirement: About a difference; of a class, of one that is there.
    """
    if requirement.measure == "class":
        row: dict[Any, Any] = comparison.by_class.loc[[str(requirement.name)]].to_dict("records")[0]
        measured = Measured(row["difference"], row["low"], row["high"], int(row["n"]))
        if measured.n == 0:
            return Measured.unknown("The class has no example in this comparison.")
        return measured.checked(requirement.on_estimate)
    if requirement.measure != "overall":
        counts = comparison.by_class["n"].to_numpy().astype(np.int64)
        classes = [str(name) for name in comparison.by_class.index]
        lacking = _lacking(counts, classes, 1 if requirement.measure == "mean" else 2)
        if lacking is not None:
            return Measured.unknown(lacking, comparison.n)
    of = comparison.differences[requirement.measure]
    value, low, high = (float(of[key]) for key in ("difference", "low", "high"))
    return Measured(value, low, high, comparison.n).checked(requirement.on_estimate)
