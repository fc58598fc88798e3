"""What is shown of an audit, computed once: page, terminal and notebook read it and compute nothing of their own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, TypeVar

import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison, comparison_table
from art_classwise.audit.findings import Findings
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError

__all__ = ["ClassData", "Comparisons", "Estimate", "ModelData", "ReportData", "comparisons", "report_data"]

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """A fraction, or a difference of fractions, with its 95 % interval; NaN where nothing is known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[Any, Any] | pd.Series[Any], value: str, low: str, high: str) -> Estimate:
        """Return the estimate that stands in three columns of a row."""
        return cls(float(row[value]), float(row[low]), float(row[high]))


@dataclass(frozen=True)
class ClassData:
    """One class of one model.

    Attributes:
        name: Of the class.
        n: Number of its examples.
        clean: Accuracy without attack.
        robust: Accuracy under all attacks.
        by_attack: Accuracy under each attack, in the order of the audit.
    """

    name: str
    n: int
    clean: Estimate
    robust: Estimate
    by_attack: tuple[float, ...]


@dataclass(frozen=True)
class ModelData:
    """One model under all attacks.

    Attributes:
        name: Of the model.
        place: 1 for the model with the highest mean over classes.
        clean: Mean over classes without attack.
        robust: Mean over classes under all attacks.
        worst_class: The first of the classes with the lowest accuracy.
        held_out: Accuracy of the worst class on examples it wasn't chosen on, with the interval of its accuracy.
        tail: Mean of the weakest fifth of the classes.
        gap: Best class minus worst.
        p: Of equal accuracy in all classes.
        classes: All classes, the weakest first, those without examples last.
        zero_gradients: The share of examples with a zero gradient, by attack.
    """

    name: str
    place: int
    clean: float
    robust: float
    worst_class: str
    held_out: Estimate
    tail: float
    gap: float
    p: float
    classes: tuple[ClassData, ...]
    zero_gradients: Mapping[str, float]

    @property
    def key(self) -> str:
        """What the model's anchors on the page begin with."""
        return f"m{self.place}"

    @cached_property
    def measured(self) -> tuple[ClassData, ...]:
        """The classes that have examples, the weakest first."""
        return tuple(one for one in self.classes if one.n)

    @cached_property
    def worst(self) -> float:
        """The lowest accuracy of a class."""
        return self.measured[0].robust.value

    @property
    def best(self) -> ClassData:
        """The class with the highest accuracy."""
        return self.measured[-1]

    @cached_property
    def strip(self) -> str:
        """A line for each class on a scale from 0 to 100, as the path of an SVG."""
        places = dict.fromkeys(self.strip_place(one.robust.value) for one in self.measured)
        return "".join(f"M{place:g} 3v10" for place in places)

    @staticmethod
    def strip_place(accuracy: float) -> float:
        """Return where an accuracy lies on that scale."""
        return round(100 * accuracy, 1)

    @cached_property
    def lowest(self) -> tuple[str, ...]:
        """All classes with the lowest accuracy."""
        return tuple(one.name for one in self.measured if one.robust.value == self.worst)


@dataclass(frozen=True, eq=False)
class ReportData:
    """An audit as it is shown.

    Attributes:
        threat: The threat model.
        manifest: How the audit was made.
        n_examples: Number of examples.
        classes: Names of the classes.
        attacks: Names of the attacks, in the order of the audit.
        worst_case: Whether an example was skipped once an attack had broken it.
        finished: Whether all attacks were tried on all examples.
        models: The most robust first.
        summary: What :meth:`AuditResult.summary` returns, in the order of the audit.
        order: Names of the models in the order of the audit.
        findings: What looks wrong.
        unchecked: Names of the models whose networks themselves weren't checked.
    """

    threat: str
    manifest: Manifest
    n_examples: int
    classes: tuple[str, ...]
    attacks: tuple[str, ...]
    worst_case: bool
    finished: bool
    models: tuple[ModelData, ...]
    summary: pd.DataFrame
    order: tuple[str, ...]
    findings: Findings
    unchecked: tuple[str, ...]

    @property
    def data(self) -> str:
        """Which data the examples are of, to follow their number; empty if that isn't known."""
        examples = self.manifest.examples
        return "" if examples.dataset == "unknown" else f" of {examples.dataset} ({examples.split})"

    def model(self, name: str) -> ModelData:
        """Return the model of this name."""
        return next(one for one in self.models if one.name == name)


@dataclass(frozen=True)
class Comparisons:
    """The most robust model beside each other one.

    Attributes:
        pairs: Each comparison with its p value, adjusted for all of them.
        reason: Why some models can't be compared; empty if all can.
    """

    pairs: tuple[tuple[Comparison, float], ...]
    reason: str

    @property
    def classes(self) -> list[tuple[Any, Mapping[Any, Any]]]:
        """The classes of the first comparison with their rows, those that differ most clearly first."""
        table = self.pairs[0][0].by_class.sort_values("p_adjusted", kind="stable", na_position="last")
        return list(table.to_dict("index").items())


def _once_per_audit(function: Callable[[AuditResult], T]) -> Callable[[AuditResult], T]:
    """Keep what a function returns of an audit for as long as there is the audit."""
    known: weakref.WeakKeyDictionary[AuditResult, T] = weakref.WeakKeyDictionary()

    @wraps(function)
    def once(result: AuditResult) -> T:
        if result not in known:
            known[result] = function(result)
        return known[result]

    return once


@_once_per_audit
def report_data(result: AuditResult) -> ReportData:
    """Return what is shown of an audit."""
    summary = result.summary()
    ranked = summary.sort_values("mean", ascending=False, kind="stable")
    zero = result.outcomes.groupby(["model", "attack"], observed=True)["zero_gradient"].mean()
    return ReportData(
        threat=str(result.threat),
        manifest=result.manifest,
        n_examples=int(result.outcomes["example"].nunique()),
        classes=result.classes,
        attacks=result.attacks,
        worst_case=result.manifest.worst_case,
        finished=result.finished,
        models=tuple(
            _model(result, str(name), place, row, {str(a): float(share) for a, share in zero.xs(name).items()})
            for place, (name, row) in enumerate(ranked.iterrows(), start=1)
        ),
        summary=summary,
        order=result.models,
        findings=result.findings,
        unchecked=result.unchecked,
    )


def _model(
    result: AuditResult, name: str, place: int, row: pd.Series[Any], zero_gradients: Mapping[str, float]
) -> ModelData:
    table = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
    by_attack = [result.class_table(name, attack)["robust"] for attack in result.attacks]
    return ModelData(
        name=name,
        place=place,
        clean=float(row["clean"]),
        robust=float(row["mean"]),
        worst_class=str(row["worst_class"]),
        held_out=Estimate.of(row, "held_out", "low", "high"),
        tail=float(row["tail20"]),
        gap=float(row["mcd"]),
        p=float(row["p"]),
        classes=tuple(
            ClassData(
                name=str(label),
                n=int(numbers["n"]),
                clean=Estimate.of(numbers, "clean", "clean_low", "clean_high"),
                robust=Estimate.of(numbers, "robust", "low", "high"),
                by_attack=tuple(float(accuracies[str(label)]) for accuracies in by_attack),
            )
            for label, numbers in table.to_dict("index").items()
        ),
        zero_gradients=zero_gradients,
    )


@_once_per_audit
def comparisons(result: AuditResult) -> Comparisons:
    """Return the most robust model compared with each other one."""
    first, *others = (model.name for model in report_data(result).models)
    made, reason = [], ""
    for other in others:
        try:
            made.append(result.compare(first, other, attack=WORST_CASE))
        except InputError as error:  # an unfinished audit's models may have other examples
            reason = str(error)
    adjusted = comparison_table(made)["p_adjusted"].tolist() if made else []
    return Comparisons(tuple(zip(made, adjusted, strict=True)), reason)
