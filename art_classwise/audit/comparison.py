"""Two models, or two attacks, compared example by example, where both answer one question."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core import display
from art_classwise._core.display import Shown
from art_classwise._core.files import output_file
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.distances import distances_of
from art_classwise.audit.outcomes import AuditTable, part
from art_classwise.audit.requirements.grammar import Requirement
from art_classwise.audit.requirements.measured import Pair
from art_classwise.audit.requirements.verdicts import Verdicts, judge_pairs
from art_classwise.errors import InputError, check_positive, unknown
from art_classwise.metrics.best import Measure
from art_classwise.metrics.best import best_worst_class as best_of_models
from art_classwise.metrics.best import compare_with_best as each_with_best
from art_classwise.metrics.comparison import holm, mean_difference, paired_comparison
from art_classwise.metrics.worst import worst_class_difference
from art_classwise.threat import ThreatModel

__all__ = [
    "Comparison",
    "Kind",
    "Side",
    "best_worst_class",
    "check_audit",
    "check_comparable",
    "check_differences",
    "check_kind",
    "compare",
    "compare_with_best",
    "compare_within",
    "comparison_table",
    "is_same_network",
]

Kind = Literal["robust", "clean"]
"""Whether an example counts as right that withstood, or that was classified rightly without attack."""


@dataclass(frozen=True)
class Side:
    """One of the two: a model of a result, under an attack or under none.

    Attributes:
        result: The audit.
        model: Name of a model of it.
        attack: Name of an attack, or ``"all attacks"``.
        name: What to call it.
        eps: A radius other than the audit's, at which distances tell who withstands; None for the audit's own.
    """

    result: AuditTable
    model: str
    attack: str
    name: str
    eps: float | None = None

    def __post_init__(self) -> None:
        if self.model not in self.result.models:
            raise unknown("model", self.model, self.result.models)
        if self.attack not in (*self.result.attacks, WORST_CASE):
            raise unknown("attack", self.attack, (*self.result.attacks, WORST_CASE))

    def outcomes(self) -> dict[str, pd.DataFrame]:
        """Return the model's outcomes under each attack that was tried on it, or under the one alone.

        Raises:
            InputError: There is none, or the attacks were tried on different examples.
        """
        asked = self.result.attacks if self.attack == WORST_CASE else (self.attack,)
        of = {a: rows for a in asked if len(rows := part(self.result, self.model, a))}
        if not of:
            raise InputError(f"The audit has no outcome of {self.attack!r} on {self.model!r}.")
        examples = [rows["example"].to_numpy() for rows in of.values()]
        if not all(np.array_equal(e, examples[0]) for e in examples):
            raise InputError(f"Attacks on {self.model!r} were tried on different examples: name one of them.")
        return of

    def right(self, kind: Kind) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the numbers of its examples, their labels, and which were right, each (n,)."""
        self.outcomes()  # of one set of examples
        rows = self.result.rows(self.model, self.attack)
        if kind == "robust" and self.eps is not None:
            of = distances_of(self.result, self.model, self.attack)
            if self.eps > of.searched_at(self.eps):
                raise InputError(
                    f"{self.name!r} isn't known at {self.eps:g}, beyond {of.searched:g}, the largest perturbation "
                    "looked for."
                )
            if (unsure := int((of.smallest_at(self.eps) > self.eps).sum())) > 0:
                raise InputError(
                    f"{self.name!r} isn't known at {self.eps:g}: {unsure} examples were broken by other attacks, and "
                    "not attacked with smaller perturbations. Audit without worst_case."
                )
            return rows["example"].to_numpy().astype(np.int64), of.label, of.distance > self.eps
        label = rows["label"].to_numpy().astype(np.int64)
        correct = rows["clean_prediction"].to_numpy() == label if kind == "clean" else rows["withstood"].to_numpy()
        return rows["example"].to_numpy().astype(np.int64), label, correct


def check_audit(which: str, value: object) -> None:
    """Check that what was given for an audit is one.

    Raises:
        InputError: It isn't: a folder, say.
    """
    if not isinstance(value, AuditTable):
        raise InputError(
            f"{which} must be an audit's result, but is {value!r:.60}: read a folder with read_audit(...)."
        )


def is_same_network(a: Side, b: Side) -> bool:
    """Return whether two audits' models have one fingerprint and gave the same answers without attack."""
    one, other = (side.result.manifest.models.get(side.model) for side in (a, b))
    if one is None or one != other:
        return False
    margins = [next(iter(side.outcomes().values()))["clean_margin"].to_numpy() for side in (a, b)]
    return bool(np.array_equal(margins[0], margins[1]))


def check_comparable(a: Side, b: Side, kind: Kind) -> None:
    """Check that two sides answer one question about the same examples, in the same order.

    Raises:
        InputError: They don't; what differs is named.
    """
    if a.result is not b.result:
        _check_audits(a, b, kind)
    if kind == "robust" and a.attack == b.attack:
        _check_attacks(a, b)
    (ids, labels, _), (other_ids, other_labels, _) = a.right(kind), b.right(kind)
    if not np.array_equal(ids, other_ids):
        shorter = min(len(ids), len(other_ids))
        i = int(np.argmax(np.append(ids[:shorter] != other_ids[:shorter], True)))
        there, here = (f"{of[i]}" if i < len(of) else "none" for of in (ids, other_ids))
        shared = len(np.intersect1d(ids, other_ids))
        order = "the same examples in another order" if shared == len(ids) == len(other_ids) else "other examples"
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on {order}: of {len(ids)} and {len(other_ids)} they share {shared}, "
            f"and first differ at place {i}, example {there} and {here}. Audit both on the same data."
        )
    if not np.array_equal(labels, other_labels):
        i = int((labels != other_labels).argmax())
        wrong = int((labels != other_labels).sum())
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on other labels: {wrong} of {len(ids)} differ, the first of "
            f"example {ids[i]}, {a.result.classes[labels[i]]!r} and {b.result.classes[other_labels[i]]!r}."
        )
    one, other = a.result.manifest.examples.fingerprint, b.result.manifest.examples.fingerprint
    if one and other and one != other:
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on examples of the same numbers and labels, but other images (their "
            f"fingerprints are {one[:8]} and {other[:8]}): audit both on the same data."
        )


def _check_audits(a: Side, b: Side, kind: Kind) -> None:
    examples = [side.result.manifest.examples for side in (a, b)]
    of = [f"{e.dataset} ({e.split})" for e in examples]
    data = [e.fingerprint for e in examples]
    if of[0] != of[1] and not (data[0] and data[0] == data[1]):  # the same images may have two names
        raise InputError(f"{a.name!r} was tried on {of[0]} and {b.name!r} on {of[1]}: audit both on the same data.")
    one, other = a.result.classes, b.result.classes
    if one != other:
        differ = next((f"{x!r} and {y!r}" for x, y in zip(one, other, strict=False) if x != y), "none and more")
        raise InputError(
            f"{a.name!r} and {b.name!r} have other classes, {len(one)} and {len(other)}; the first that differ are "
            f"{differ}. Audit both on the same data."
        )
    if kind == "clean":
        return
    one_threat, other_threat = a.result.threat, b.result.threat
    if one_threat.norm != other_threat.norm or (a.eps is None and one_threat != other_threat):
        raise InputError(
            f"{a.name!r} was attacked at {one_threat} and {b.name!r} at {other_threat}: audit both at one "
            "threat model, or compare clean accuracies; where attacks looked for the smallest perturbations, a radius "
            "of your choice can be given, `eps`.",
        )
    worst_case_sides = [side.name for side in (a, b) if side.result.manifest.worst_case]
    if len(worst_case_sides) == 1 and a.attack != WORST_CASE:
        raise InputError(
            f"The audit of {worst_case_sides[0]!r} skipped broken examples (worst_case) and the other didn't: they can "
            f"be compared only under all attacks together, {WORST_CASE!r}."
        )


def _check_attacks(a: Side, b: Side) -> None:
    """Check that an attack of one name, or all attacks, means the same of both."""
    one, other = (list(side.outcomes()) for side in (a, b))
    before = a.result is not b.result and a.result.manifest.worst_case and a.attack != WORST_CASE
    if before:  # each attack counts with those before it
        one, other = (list(s.result.attacks[: s.result.attacks.index(s.attack) + 1]) for s in (a, b))
    alone = [
        f"{side.name!r} alone has {', '.join(lacking)}"
        for side, lacking in ((a, [n for n in one if n not in other]), (b, [n for n in other if n not in one]))
        if lacking
    ]
    if alone or (before and one != other):
        why = "; ".join(alone) or f"their order is {', '.join(one)} and {', '.join(other)}"
        what = f"{a.attack!r} counts with the attacks before it, and these differ" if before else "All attacks differ"
        shared = [n for n in one if n in other] if not before else []
        advice = f"name one that both have, {', '.join(shared)}" if shared else "audit both with the same attacks"
        raise InputError(f"{what}: {why}. To compare, {advice}.")
    for name in one:
        then, now = (side.result.manifest.parameters(name) for side in (a, b))
        keys = {**then, **now} if then and now else {}
        changed = [f"{k} {then.get(k)!r} and {now.get(k)!r}" for k in keys if then.get(k) != now.get(k)]
        if changed:
            raise InputError(
                f"The attack {name!r} on {a.name!r} and that on {b.name!r} differ: {'; '.join(changed[:3])}. Audit "
                "both with the same attack."
            )


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """How two models, or two attacks on one model, differ on the same examples.

    Every difference is the first's accuracy minus the second's; all values but counts and names are fractions.

    Attributes:
        first: Name of the first.
        second: Name of the second.
        kind: ``"robust"`` or ``"clean"`` accuracy.
        model: The model on which two attacks were compared; None where models were.
        attack: The attack under which two models were compared; None where attacks were, or clean accuracies.
        threat: The threat model; None of clean accuracies.
        worst_case: Whether broken examples left the audit: then an attack counts with those before it.
        n: Number of examples.
        confidence: Coverage of the intervals, each for itself.
        by_class: A row per class: see :func:`art_classwise.metrics.comparison.paired_comparison`. Its ``p_adjusted``
            holds for all classes at once; its intervals don't.
        overall: Over all examples, each counting alike: ``first``, ``second``, ``difference``, ``low``, ``high``
            (Newcombe 1998), ``p`` (McNemar's exact test).
        mean: Over classes, each counting alike: ``first``, ``second``, ``difference``, ``low``, ``high`` (of a
            stratified sample: see :func:`art_classwise.metrics.comparison.mean_difference`).
        worst_class: ``first_class``, ``second_class``, the worst class of each; ``first``, ``second``, their
            accuracies; ``difference``, ``low``, ``high``, ``p``, all of which allow for choosing the classes, and
            ``left_out``, classes with a single example (:func:`art_classwise.metrics.worst_class_difference`).
        is_quick_estimate: Whether robust accuracies are under the ladder ``"fast"``: quick upper bounds.
    """

    first: str
    second: str
    kind: Kind
    model: str | None
    attack: str | None
    threat: ThreatModel | None
    worst_case: bool
    n: int
    confidence: float
    by_class: pd.DataFrame = field(repr=False)
    overall: pd.Series[float] = field(repr=False)
    mean: pd.Series[float] = field(repr=False)
    worst_class: pd.Series[Any] = field(repr=False)
    is_quick_estimate: bool = False

    @property
    def about(self) -> str:
        """What is compared, in words."""
        of = "" if self.model is None else f" of {self.model}"
        under = "" if self.attack is None else f" under {self.attack}"
        what = f"quick estimate of {self.kind}" if self.is_quick_estimate else self.kind
        return f"{what} accuracy{of}{under}{'' if self.threat is None else f' at {self.threat}'}"

    def table(self) -> pd.DataFrame:
        """Return all of it in one table.

        Returns:
            The columns of :attr:`by_class`, indexed by (``of``, ``class``): a row per class (``of`` is ``"class"``),
            then ``"all examples"``, ``"mean over classes"`` and ``"worst class"``, whose class is empty, of the worst
            class ``first / second`` where the two differ.
        """
        a, b = self.worst_class[["first_class", "second_class"]]
        rest = pd.DataFrame([self.overall, self.mean, self.worst_class]).assign(n=[self.n] * 3)
        whole = pd.concat([self.by_class, rest.reindex(columns=self.by_class.columns).astype(self.by_class.dtypes)])
        of = ["class"] * len(self.by_class) + ["all examples", "mean over classes", "worst class"]
        names = [*self.by_class.index, "", "", a if a == b else f"{a} / {b}"]
        return whole.set_axis(pd.MultiIndex.from_arrays([of, names], names=["of", "class"]))

    def check(self, requirements: Requirement | str | Iterable[Requirement | str]) -> Verdicts:
        """Judge whether the differences meet requirements, such as ``"difference:worst > -0.02"``.

        Args:
            requirements: As :meth:`art_classwise.audit.Requirement.parse` takes them, about differences: the first's
                accuracy minus the second's. The low end of the interval is held against a lower bound.

        Returns:
            A verdict for each; ``.met`` says whether all are met.

        Raises:
            InputError: A requirement has another form, isn't about a difference, or names no class.
        """
        return check_differences([self], requirements)

    def to_latex(self) -> str:
        r"""Return the tables for LaTeX, with booktabs: a row per class, and totals.

        All rows and columns are there, names are in full and escaped, and the weakest class is bold. A document needs
        ``\usepackage{booktabs,longtable}``; tables of more than 40 rows are long ones.
        """
        return display.latex(self)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`table` as a CSV file, the names of the two and what is compared in each row.

        Raises:
            InputError: It can't be written.
        """
        table = self.table()
        for name, value in (("about", self.about), ("second_name", self.second), ("first_name", self.first)):
            table.insert(0, name, value)
        with output_file(path, "comparison.csv") as aside:
            table.to_csv(aside)


def compare(
    first: AuditTable,
    second: AuditTable,
    *,
    models: Sequence[str] | None = None,
    attack: str = WORST_CASE,
    kind: Kind = "robust",
    eps: float | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare a model of one audit with a model of another, on the same examples.

    Args:
        first: An audit.
        second: Another audit, of the same examples in the same order, under whatever name if the data's fingerprints
            are known; of robust accuracies, also of the same threat model and, as far as it is asked about them, the
            same attacks.
        models: A model of each; absent where each audit has but one.
        attack: An attack that both audits have, or ``"all attacks"``, which must then be the same ones.
        kind: ``"robust"``, or ``"clean"`` for accuracy without attack.
        eps: A radius to compare at, in place of the audits', which may then be two: for attacks that look for the
            smallest perturbations, such as ``"fmn"``.
        confidence: Coverage of the intervals.

    Returns:
        The comparison, differences first minus second.

    Raises:
        InputError: There is no such model or attack, or the outcomes can't be compared; the reason is named.
    """
    check_audit("The first", first)
    check_audit("The second", second)
    if models is None:
        for which, result in (("first", first), ("second", second)):
            if len(result.models) > 1:
                raise InputError(
                    f"The {which} audit has {len(result.models)} models ({', '.join(result.models)}): "
                    "name one of each, `models`."
                )
        models = first.models[0], second.models[0]
    if isinstance(models, str) or len(models) != 2:
        raise InputError(f"`models` must be two names, a model of each audit, but got {models!r}.")
    a, b = models
    names = (a, b) if a != b else (f"{a} (first)", f"{b} (second)")
    sides = Side(first, a, attack, names[0], eps), Side(second, b, attack, names[1], eps)
    if is_same_network(*sides):
        raise InputError(
            f"{a!r} of the first audit and {b!r} of the second are the same network: there is nothing to "
            "compare. Name two models, or two attacks of one audit."
        )
    return _compared(*sides, kind, confidence)


def compare_within(
    result: AuditTable,
    first: str,
    second: str,
    *,
    attack: str | None = None,
    model: str | None = None,
    kind: Kind = "robust",
    eps: float | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two models of an audit, or two of its attacks on a model: see :meth:`AuditResult.compare`.

    Raises:
        InputError: There is no such model or attack, both are the same, their examples differ, or the names are those
            of models and of attacks, and neither ``model`` nor ``attack`` says what is meant.
    """
    attacks = (*result.attacks, WORST_CASE)
    for name in (first, second):
        if name not in (*result.models, *attacks):
            raise unknown("model or attack", name, (*result.models, *attacks))
    are_models, are_attacks = ({first, second} <= {*names} for names in (result.models, attacks))
    if are_models and are_attacks and model is None and attack is None and kind == "robust":
        raise InputError(
            f"{first!r} and {second!r} are both models and attacks: to compare attacks, name their model, "
            f"`model=...`; to compare models, name an attack, e.g. `attack={WORST_CASE!r}`."
        )
    if first == second:
        raise InputError(f"{first!r} can't be compared with itself: name two models, or two attacks.")
    if are_models and not (are_attacks and model is not None):
        if model is not None:
            raise InputError(f"Models are compared, {first!r} and {second!r}: `model` is for two attacks.")
        under = WORST_CASE if attack is None else attack
        models = Side(result, first, under, first, eps), Side(result, second, under, second, eps)
        return _compared(*models, kind, confidence)
    if not are_attacks:
        a, b = (first, second) if first in result.models else (second, first)
        raise InputError(f"{a!r} is a model and {b!r} an attack: name two models, or two attacks.")
    if attack is not None or kind != "robust":
        raise InputError(f"Attacks are compared, {first!r} and {second!r}: `attack` and `kind` are for two models.")
    if model is None and len(result.models) > 1:
        raise InputError(f"There are {len(result.models)} models: choose one, e.g. `model={result.models[0]!r}`.")
    on = result.models[0] if model is None else model
    sides = Side(result, on, first, first, eps), Side(result, on, second, second, eps)
    return _compared(*sides, kind, confidence)


def compare_with_best(
    result: AuditTable,
    *,
    models: Sequence[str] | None = None,
    attack: str | None = None,
    measure: Measure = "mean",
    kind: Kind = "robust",
    eps: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each model of an audit with the best of the others: see :meth:`AuditResult.compare_with_best`.

    Raises:
        InputError: There are fewer than two models, no such model, attack or measure, or their examples differ.
    """
    y, correct, names = _verdicts(result, models, attack, kind, eps)
    if len(names) < 2:
        raise InputError(f"There is one model, {names[0]!r}: to be compared with the best, it takes two.")
    return each_with_best(
        y, correct, len(result.classes), models=names, measure=measure, confidence=confidence, seed=seed
    )


def best_worst_class(
    result: AuditTable,
    *,
    models: Sequence[str] | None = None,
    attack: str | None = None,
    kind: Kind = "robust",
    eps: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.Series[Any]:
    """Return the worst class of the model that has the best one: see :meth:`AuditResult.best_worst_class`.

    Raises:
        InputError: There is no such model or attack, their examples differ, or no class has two of them.
    """
    y, correct, names = _verdicts(result, models, attack, kind, eps)
    return best_of_models(y, correct, len(result.classes), models=names, confidence=confidence, seed=seed)


def _verdicts(
    result: AuditTable, models: Sequence[str] | None, attack: str | None, kind: Kind, eps: float | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], list[str]]:
    """Return labels (n,), which examples each of m models got right (m, n), and the models' names."""
    if isinstance(models, str):
        raise InputError(f"`models` must be several names, but got {models!r}.")
    check_kind(kind, eps)
    names = list(result.models if models is None else models)
    sides = [Side(result, name, WORST_CASE if attack is None else attack, name, eps) for name in names]
    if not sides:
        raise InputError("There is no model to compare.")
    for side in sides[1:]:
        check_comparable(sides[0], side, kind)
    return sides[0].right(kind)[1], np.stack([side.right(kind)[2] for side in sides]), names


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison.

    Returns:
        Indexed by (``first``, ``second``), the names: ``n``; over all examples ``first_accuracy``,
        ``second_accuracy``, ``difference``, ``low``, ``high``, ``p`` and ``p_adjusted``, by Holm over the rows: it
        holds for all of them at once, intervals don't; over classes ``mean_difference``, ``mean_low``, ``mean_high``;
        of the worst classes ``first_worst_class``, ``first_worst``, ``second_worst_class``, ``second_worst``,
        ``worst_difference``, ``worst_low``, ``worst_high``, ``worst_p``, which isn't adjusted. All
        rows are supposed to be named before looking: whoever compares with the model that turned out best needs
        :meth:`art_classwise.AuditResult.compare_with_best`.

    Raises:
        InputError: There is no comparison.
    """
    if not comparisons:
        raise InputError("There is no comparison to make a table of.")
    rows = []
    for one in comparisons:
        row: dict[str, object] = {"first": one.first, "second": one.second, "n": one.n}
        row |= {"first_accuracy": one.overall["first"], "second_accuracy": one.overall["second"]}
        row |= {key: one.overall[key] for key in ("difference", "low", "high", "p")}
        row |= {f"mean_{key}": one.mean[key] for key in ("difference", "low", "high")}
        for side in ("first", "second"):
            row |= {f"{side}_worst_class": one.worst_class[f"{side}_class"], f"{side}_worst": one.worst_class[side]}
        rows.append(row | {f"worst_{key}": one.worst_class[key] for key in ("difference", "low", "high", "p")})
    table = pd.DataFrame(rows).set_index(["first", "second"])
    table.insert(list(table).index("p") + 1, "p_adjusted", holm(table["p"].to_numpy()))
    return table


def check_differences(
    comparisons: Sequence[Comparison], requirements: Requirement | str | Iterable[Requirement | str]
) -> Verdicts:
    """Judge requirements of several comparisons: see :meth:`Comparison.check`.

    Args:
        comparisons: Of the same classes.
        requirements: One that names a model is about the comparisons in which that one is the first.

    Raises:
        InputError: As :meth:`Comparison.check`.
    """
    pairs = [
        Pair(
            first=one.first,
            second=one.second,
            about=one.about,
            n=one.n,
            confidence=one.confidence,
            differences={"mean": one.mean, "worst": one.worst_class, "overall": one.overall},
            by_class=one.by_class,
        )
        for one in comparisons
    ]
    return judge_pairs(pairs, requirements)


def check_kind(kind: Kind, eps: float | None) -> None:
    """Check the kind of accuracy, and a radius to ask for it at.

    Raises:
        InputError: There is no such kind, the radius isn't above 0, or the kind has none.
    """
    if kind not in ("robust", "clean"):
        raise unknown("kind of accuracy", kind, ("robust", "clean"))
    if eps is not None:
        check_positive("eps", eps)
        if kind == "clean":
            raise InputError("Accuracy without attack has no radius: leave `eps` out.")


def _compared(a: Side, b: Side, kind: Kind, confidence: float) -> Comparison:
    check_kind(kind, a.eps)
    check_comparable(a, b, kind)
    (_, y, first), (_, _, second) = a.right(kind), b.right(kind)
    classes, pair = a.result.classes, (first, second)
    options: Any = {"confidence": confidence}
    overall = paired_comparison(np.zeros_like(y), *pair, 1, **options).iloc[0].drop(["n", "p_adjusted"])
    attacks = a.attack != b.attack
    return Comparison(
        first=a.name,
        second=b.name,
        kind=kind,
        model=a.model if attacks else None,
        attack=None if attacks or kind == "clean" else a.attack,
        threat=None if kind == "clean" else a.result.threat if a.eps is None else replace(a.result.threat, eps=a.eps),
        worst_case=a.result.manifest.worst_case,
        n=len(y),
        confidence=confidence,
        by_class=paired_comparison(y, *pair, len(classes), classes=classes, **options),
        overall=overall.rename(None),
        mean=mean_difference(y, *pair, len(classes), **options),
        worst_class=worst_class_difference(y, *pair, len(classes), classes=classes, **options),
        is_quick_estimate=kind == "robust"
        and all(side.attack == WORST_CASE and side.result.is_quick_estimate for side in (a, b)),
    )
