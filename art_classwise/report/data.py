"""What is shown of an audit, computed once: page, terminal and notebook read it and compute nothing of their own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from art_classwise import metrics
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison, Side, check_comparable
from art_classwise.audit.corrupted import MEAN_CORRUPTION
from art_classwise.audit.findings import CheckResult, Findings
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.result import AuditResult
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError
from art_classwise.metrics.best import Measure
from art_classwise.report.distances import ModelDistances, distances_in
from art_classwise.report.tables import interval, percent, weakest_first

__all__ = [
    "ClassData",
    "Comparisons",
    "Estimate",
    "ModelData",
    "ReportData",
    "Standing",
    "as_note",
    "class_order",
    "comparisons",
    "pairs",
    "report_data",
    "upper_bounds",
]

T = TypeVar("T")

_ALPHA = 0.05
_MOST_NAMED = 5

FEWEST_EXAMPLES = 50
"""Of a class that is named as the worst: the interval of its accuracy is then at most 27 points wide."""


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

    def __str__(self) -> str:
        return interval(self.value, self.low, self.high)


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
        clean: Mean over classes without attack, with its interval.
        robust: Mean over classes under all attacks, with its interval.
        worst_class: The first of the classes with the lowest accuracy.
        held_out: Accuracy of the worst class on examples it wasn't chosen on, with the interval of its accuracy.
        tail: Mean of the weakest fifth of the classes.
        gap: Best class minus worst.
        p: Of equal accuracy in all classes.
        classes: All classes, the weakest first, those without examples last.
        zero_gradients: The share of examples with a zero gradient, by attack.
        is_bound: Whether no strong attack was run on it, so that robust accuracy is at most what was measured.
        distances: The smallest perturbations of its examples, if attacks measured them.
        worst_group: Where single classes have too few examples, the worst of the data set's usual groups of classes, if
            it is the worst beyond chance, with its accuracy on examples it wasn't chosen on; None else.
    """

    name: str
    place: int
    clean: Estimate
    robust: Estimate
    worst_class: str
    held_out: Estimate
    tail: float
    gap: float
    p: float
    classes: tuple[ClassData, ...]
    zero_gradients: Mapping[str, float]
    is_bound: bool
    distances: ModelDistances | None = None
    worst_group: tuple[str, Estimate] | None = None

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

    @property
    def names_worst(self) -> bool:
        """Whether the worst class can be named: one class is the worst, with enough examples, and not by chance."""
        return len(self.lowest) == 1 and self.measured[0].n >= FEWEST_EXAMPLES and self.p < _ALPHA

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
        attacks: Names of the attacks, in the order of the audit; then of corruptions, each at all of its severities
            together, the one of the lowest accuracy first.
        overall: What they are together: ``"all attacks"``, or of corruptions alone ``"mean corruption"``.
        corruptions: What :meth:`AuditResult.corruption_summary` returns; None without corruptions.
        worst_case: Whether an example was skipped once an attack had broken it.
        finished: Whether all attacks were tried on all examples.
        missing: If not, sentences that say what isn't there.
        costs: What :meth:`AuditResult.attack_costs` returns, without rows of which nothing is known.
        models: The most robust first.
        summary: What :meth:`AuditResult.summary` returns, in the order of the audit.
        order: Names of the models in the order of the audit.
        findings: What looks wrong.
        checks: Each check of the audit and of each model, with its result.
        unchecked: Names of the models whose networks themselves weren't checked.
        is_estimate: Whether the attacks are those of the ladder ``"fast"``: a quick estimate, which is no AutoAttack.
        bound: What :func:`upper_bounds` says of the audit.
    """

    threat: str
    manifest: Manifest
    n_examples: int
    classes: tuple[str, ...]
    attacks: tuple[str, ...]
    overall: str
    corruptions: pd.DataFrame | None
    worst_case: bool
    finished: bool
    missing: tuple[str, ...]
    costs: pd.DataFrame
    models: tuple[ModelData, ...]
    summary: pd.DataFrame
    order: tuple[str, ...]
    findings: Findings
    checks: tuple[CheckResult, ...]
    unchecked: tuple[str, ...]
    is_estimate: bool
    bound: str

    @property
    def has_made(self) -> bool:
        """Whether images of some corruptions are made from the clean ones."""
        return any(name.startswith("made:") for name in self.attacks)

    @property
    def robust(self) -> str:
        """What accuracy under all attacks, or under corruptions, is called at the head of a column."""
        return "robust" if self.overall == WORST_CASE else "corrupted"

    @property
    def under(self) -> str:
        """Under what that accuracy is."""
        return f"at {self.threat}, all attacks" if self.overall == WORST_CASE else "mean over corruptions"

    def weakest_corruption(self, model: str) -> str:
        """Return, as a sentence, where a model is weakest under corruptions; nothing without any."""
        if self.corruptions is None:
            return ""
        row = self.corruptions.to_dict("index")[model]
        mean = Estimate.of(row, "mean", "mean_low", "mean_high")
        return (
            f"Mean corruption accuracy {mean} %; worst corruption {row['worst_corruption']}, "
            f"{percent(row['worst_corruption_accuracy'])} %; worst class {row['worst_class']}, "
            f"{percent(row['worst'])} %; lowest of all {row['weakest_class']} under {row['weakest_corruption']}, "
            f"{percent(row['weakest'])} %."
        )

    @property
    def data(self) -> str:
        """Which data the examples are of, to follow their number; empty if that isn't known."""
        examples = self.manifest.examples
        return "" if examples.dataset == "unknown" else f" of {examples.dataset} ({examples.split})"

    @property
    def checked(self) -> str:
        """How many checks ran, and how many of them found something."""
        ran = sum(one.result != "not run" for one in self.checks)
        found = sum(one.result == "found" for one in self.checks)
        verdict = f"{found} of them found something" if found else "none of them found anything"
        return f"{ran} of {len(self.checks)} checks ran, {verdict}."

    def model(self, name: str) -> ModelData:
        """Return the model of this name."""
        return next(one for one in self.models if one.name == name)


@dataclass(frozen=True)
class Standing:
    """Where one of several models stands: see :func:`art_classwise.metrics.compare_with_best`.

    Attributes:
        difference: From the best of the others; the interval holds for all models at once.
        p: Of being one of the best, adjusted for all models.
        rank: 1 for the best.
        rank_low: The interval of the rank, for all models at once.
        rank_high: Its upper end.
    """

    difference: Estimate
    p: float
    rank: int
    rank_low: int
    rank_high: int


@dataclass(frozen=True, eq=False)
class Comparisons:
    """All models beside the best one, which is known from these examples alone.

    Attributes:
        models: Names of the models, the most robust first; empty if there aren't two to compare.
        mean: Where each stands by its mean over classes.
        worst: Where each stands by its worst class.
        table: A row per measure and model, all columns of :func:`art_classwise.metrics.compare_with_best`.
        reason: Why some models can't be compared; empty if all can.
    """

    models: tuple[str, ...]
    mean: Mapping[str, Standing]
    worst: Mapping[str, Standing]
    table: pd.DataFrame
    reason: str

    @property
    def verdict(self) -> str:
        """Which models may be the best; nothing where there is nothing to compare."""
        if not self.models:
            return ""
        rivals = [name for name in self.models[1:] if self.mean[name].p > _ALPHA]
        if not rivals:
            others = self.models[1] if len(self.models) == 2 else "each other model"
            return f"{self.models[0]} has a higher mean over classes than {others}, beyond chance."
        more = f" and {len(rivals) - _MOST_NAMED} more" if len(rivals) > _MOST_NAMED else ""
        names = ", ".join(rivals[:_MOST_NAMED])
        return f"{self.models[0]} has the highest mean over classes, but {names}{more} may be as good."


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
    kinds = _corruptions(result)
    zero = result.outcomes.groupby(["model", "attack"], observed=True)["zero_gradient"].mean()
    return ReportData(
        threat=str(result.threat),
        manifest=result.manifest,
        n_examples=int(result.outcomes["example"].nunique()),
        classes=result.classes,
        attacks=(*result.adversaries, *kinds),
        overall=result.overall,
        corruptions=result.corruption_summary() if result.corruptions else None,
        worst_case=result.manifest.worst_case,
        finished=result.finished,
        missing=result.missing,
        costs=result.attack_costs().dropna(subset="seconds"),
        models=tuple(
            _model(result, str(name), place, row, {str(a): float(share) for a, share in zero.xs(name).items()}, kinds)
            for place, (name, row) in enumerate(ranked.iterrows(), start=1)
        ),
        summary=summary,
        order=result.models,
        findings=result.findings,
        checks=result.check_results,
        unchecked=result.unchecked,
        is_estimate=result.is_quick_estimate,
        bound=upper_bounds(result),
    )


def upper_bounds(result: AuditResult) -> str:
    """Return, as a sentence, of which models robust accuracies are upper bounds; nothing if of none.

    They are where no strong attack was run: see :attr:`art_classwise.AuditResult.strongly_attacked`.
    """
    if result.is_quick_estimate:
        return (
            "A quick estimate, an upper bound of robust accuracy: the ladder fast isn't AutoAttack, which may "
            "break more (--attacks standard)."
        )
    strongly = result.strongly_attacked
    names = [name for name in result.models if name not in strongly]
    of = f" on {', '.join(names[:_MOST_NAMED])}{' and others' * (len(names) > _MOST_NAMED)}"
    where = "" if len(names) == len(result.models) else of
    return f"At most: no strong attack, such as standard AutoAttack, was run{where}." if names else ""


def as_note(bound: str) -> str:
    """Return what :func:`upper_bounds` says as it stands among the notes below a table."""
    told = bound.partition(" (--")[0].removesuffix(".")
    return f"{told[:1].lower()}{told[1:]}"


def _model(
    result: AuditResult,
    name: str,
    place: int,
    row: pd.Series[Any],
    zero_gradients: Mapping[str, float],
    corruptions: Sequence[str],
) -> ModelData:
    table = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
    by_attack = [result.class_table(name, attack)["robust"].to_dict() for attack in result.adversaries]
    if corruptions:
        by_corruption = result.by_corruption(name)
        by_attack += [by_corruption[kind].to_dict() for kind in corruptions]
    return ModelData(
        name=name,
        place=place,
        clean=Estimate.of(row, "clean", "clean_low", "clean_high"),
        robust=Estimate.of(row, "mean", "mean_low", "mean_high"),
        worst_class=str(row["worst_class"]),
        held_out=Estimate.of(row, "held_out", "worst_low", "worst_high"),
        tail=float(row["tail20"]),
        gap=float(row["mcd"]),
        p=float(row["p"]),
        classes=tuple(
            ClassData(
                name=str(label),
                n=int(numbers["n"]),
                clean=Estimate.of(numbers, "clean", "clean_low", "clean_high"),
                robust=Estimate.of(numbers, "robust", "robust_low", "robust_high"),
                by_attack=tuple(float(accuracies[str(label)]) for accuracies in by_attack),
            )
            for label, numbers in table.to_dict("index").items()
        ),
        zero_gradients=zero_gradients,
        is_bound=name not in result.strongly_attacked,
        distances=distances_in(result, name),
        worst_group=_worst_group(result, name),
    )


def _corruptions(result: AuditResult) -> tuple[str, ...]:
    """Return the corruptions, each once, by their mean over classes, severities and models, the lowest first."""
    if not result.corruptions:
        return ()
    tables = [result.by_corruption(name).drop(columns=["clean", MEAN_CORRUPTION]) for name in result.models]
    return tuple(pd.concat(tables).mean().sort_values(kind="stable").index)


def _worst_group(result: AuditResult, name: str) -> tuple[str, Estimate] | None:
    spec = DATASETS.get(result.manifest.examples.dataset)
    counts = result.class_table(name)["n"]
    if spec is None or spec.groups is None or counts[counts > 0].median() >= FEWEST_EXAMPLES:
        return None
    if not result.adversaries:
        return None
    rows = result.rows(name)
    try:
        of, names = metrics.group_labels(rows["label"].to_numpy(), spec.groups, result.classes)
        worst = result.worst_group(name, spec.groups)
    except InputError:  # examples of some classes only, or classes by other names
        return None
    differ = metrics.disparity_test(of, rows["withstood"].to_numpy(), len(names))["p"] < _ALPHA
    if not differ or np.bincount(of, minlength=len(names))[names.index(worst["class"])] < FEWEST_EXAMPLES:
        return None
    return str(worst["class"]), Estimate.of(worst, "accuracy", "low", "high")


@_once_per_audit
def class_order(result: AuditResult) -> tuple[str, ...]:
    """Return the classes that have examples, the weakest first, all models together: the order of all figures."""
    return tuple(weakest_first([result.class_table(name) for name in result.models]))


@_once_per_audit
def comparisons(result: AuditResult) -> Comparisons:
    """Return all models of an audit compared with the best one; those left out that have other examples."""
    if not result.adversaries:  # of whose outcomes comparisons are
        return Comparisons((), {}, {}, pd.DataFrame(), "")
    first, *others = (Side(result, model.name, WORST_CASE, model.name) for model in report_data(result).models)
    models, reason = [first.model], ""
    for other in others:
        try:
            check_comparable(first, other, "robust")
            models.append(other.model)
        except InputError as error:  # as in an unfinished audit
            reason = str(error)
    if len(models) < 2:
        return Comparisons((), {}, {}, pd.DataFrame(), reason)
    in_order = [name for name in result.models if name in models]  # the draws belong to the order
    measures: tuple[Measure, ...] = ("mean", "worst")
    tables = {measure: result.compare_with_best(in_order, measure=measure) for measure in measures}
    mean, worst = (_standings(tables[measure]) for measure in measures)
    return Comparisons(tuple(models), mean, worst, pd.concat(tables, names=["measure"]), reason)


@_once_per_audit
def pairs(result: AuditResult) -> tuple[Comparison, ...]:
    """Return the most robust model beside each other one, class by class."""
    first, *others = comparisons(result).models or ("",)
    return tuple(result.compare(first, other, attack=WORST_CASE) for other in others)


def _standings(table: pd.DataFrame) -> dict[str, Standing]:
    return {
        str(name): Standing(
            difference=Estimate.of(row, "difference", "difference_low", "difference_high"),
            p=float(row["p_adjusted"]),
            rank=int(row["rank"]),
            rank_low=int(row["all_ranks_low"]),
            rank_high=int(row["all_ranks_high"]),
        )
        for name, row in table.iterrows()
    }
