"""Whether requirements are met, each with its number, the interval and the number of examples."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from art_classwise._core.files import check_output_file, written_aside
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.findings import CHECKS
from art_classwise.audit.requirements.grammar import MEASURES, Requirement, parsed
from art_classwise.audit.requirements.junit import Case, junit
from art_classwise.audit.requirements.measured import Measured, Pair, of_comparison, of_model
from art_classwise.errors import InputError, check_number, unknown

if TYPE_CHECKING:
    from art_classwise.audit.findings import CheckResult
    from art_classwise.audit.outcomes import AuditTable

__all__ = ["Verdict", "Verdicts", "check_names", "judge_models", "judge_pairs"]


@dataclass(frozen=True)
class Verdict:
    """What came of a requirement of a model, or of two that are compared.

    Attributes:
        requirement: The requirement.
        model: The model, or the first of two; None where it is about the audit as a whole.
        other: The second of two.
        about: What was measured, in words: which accuracy, under which attack, at which radius.
        value: The number, a fraction, a difference or a count; NaN where it isn't known.
        low: The low end of its interval.
        high: The high end.
        confidence: Coverage of the interval.
        n: Of how many examples.
        met: Whether the requirement is met.
        reason: Why it can't be judged, a sentence; None if it could. What can't be judged isn't met.
    """

    requirement: Requirement
    model: str | None
    other: str | None
    about: str
    value: float
    low: float
    high: float
    confidence: float
    n: int
    met: bool
    reason: str | None

    @classmethod
    def of(
        cls,
        requirement: Requirement,
        measured: Measured,
        confidence: float,
        *,
        model: str | None,
        other: str | None = None,
        about: str,
    ) -> Verdict:
        """Judge a requirement by what was measured."""
        value, low, high, n, reason = measured
        judged = value
        if not requirement.on_estimate and not MEASURES[requirement.measure].counts:
            judged = low if requirement.is_lower_bound else high
        met = reason is None and requirement.is_met(judged)
        return cls(requirement, model, other, about, value, low, high, confidence, n, met, reason)

    @property
    def subject(self) -> str:
        """What was judged: the model, or both of two."""
        if self.model is None:
            return "the audit"
        return self.model if self.other is None else f"{self.model} minus {self.other}"

    @property
    def state(self) -> str:
        """``"met"``, ``"not met"`` or ``"not judged"``."""
        return "met" if self.met else "not met" if self.reason is None else "not judged"

    @property
    def number(self) -> str:
        """The number with its interval and n, in words; why there is none, where there is none."""
        measure = MEASURES[self.requirement.measure]
        if math.isnan(self.value):
            return str(self.reason)
        if measure.counts:
            return f"{self.value:,.0f}" if self.reason is None else f"{self.value:,.0f}. {self.reason}"
        shown, low, high = map(self._written, (self.value, self.low, self.high))
        unit = "" if not measure.percent else " points" if self.requirement.difference else " %"
        told = f"{shown}{unit}, {100 * self.confidence:g} % interval {low} to {high}, n = {self.n:,}"
        if self.reason is not None:
            return f"{told}. {self.reason}"
        if not self.met and self.requirement.is_met(self.value):
            end = "low" if self.requirement.is_lower_bound else "high"
            return f"{told}; the number meets it, the {end} end of the interval doesn't"
        return told

    def __str__(self) -> str:
        return f"{self.state}: {self.requirement}: {self.subject}, {self.about}: {self.number}"

    def _written(self, value: float) -> str:
        """Write a number with as many digits as tell it from the bound."""
        scale, fewest = (100, 1) if MEASURES[self.requirement.measure].percent else (1, 3)
        texts = [f"{scale * value:.{digits}f}" for digits in (fewest, 4, 6)]
        bound = scale * self.requirement.bound
        return next((t for t in texts if not math.isclose(float(t), bound, abs_tol=1e-9)), texts[0])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as ``--json`` has it."""
        told = {"requirement": self.requirement.text, **asdict(self)}
        told["requirement"] = self.requirement.text
        bound = {"bound": self.requirement.bound, "operator": self.requirement.operator}
        return told | bound | {"measure": self.requirement.measure, "state": self.state}


class Verdicts(tuple[Verdict, ...]):
    """What came of requirements, in the order they were given, a verdict for each and each model."""

    __slots__ = ()

    @property
    def met(self) -> bool:
        """Whether all requirements are met."""
        return all(one.met for one in self)

    @property
    def failed(self) -> Verdicts:
        """Those that aren't met, or can't be judged."""
        return Verdicts(one for one in self if not one.met)

    def table(self) -> pd.DataFrame:
        """Return a row per verdict: ``requirement``, as it was written, and the attributes of :class:`Verdict`."""
        return pd.DataFrame([one.to_dict() for one in self])

    def to_junit(self, path: str | os.PathLike[str], *, name: str = "art-classwise") -> None:
        """Write a file in the format of JUnit, which continuous integration shows: a test case per verdict.

        Args:
            path: Its folder is made if missing.
            name: Of the test suite.

        Raises:
            InputError: It can't be written.
        """
        cases = [
            Case(
                one.requirement.text,
                f"{one.subject}, {one.about}",
                str(one),
                None if one.met else one.state.replace(" ", "-"),
            )
            for one in self
        ]
        with written_aside(check_output_file(path, "requirements.xml")) as aside:
            aside.write_bytes(junit(name, cases))

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__


def check_names(
    requirements: Iterable[Requirement],
    models: Collection[str],
    attacks: Collection[str],
    classes: Collection[str],
) -> None:
    """Check that requirements name what an audit has, before it begins.

    Args:
        requirements: About models, not about differences.
        models: Names of the models.
        attacks: Names of the attacks.
        classes: Names of the classes.

    Raises:
        InputError: One names something else; close names are proposed. Or it is about a difference.
    """
    for one in requirements:
        if one.difference:
            raise InputError(f"{one.text!r} is about two models or attacks: it is for art-classwise compare.")
        if one.model is not None and one.model not in models:
            raise unknown(f"model in the requirement {one.text!r}:", one.model, models)
        if one.attack is not None and one.attack not in (*attacks, WORST_CASE):
            raise unknown(f"attack in the requirement {one.text!r}:", one.attack, (*attacks, WORST_CASE))
        if one.measure == "class" and one.name not in classes:
            raise unknown(f"class in the requirement {one.text!r}:", one.name, classes)
        checks = list(dict.fromkeys(check.name for check in CHECKS))
        if one.measure == "findings" and one.name is not None and one.name not in checks:
            raise unknown(f"check in the requirement {one.text!r}:", one.name, checks)


def judge_models(
    result: AuditTable,
    check_results: Sequence[CheckResult],
    requirements: Requirement | str | Iterable[Requirement | str],
    *,
    confidence: float = 0.95,
    asked: Collection[str] = (),
) -> Verdicts:
    """Judge requirements of an audit's models: see :meth:`AuditResult.check`.

    Args:
        result: The audit.
        check_results: What came of its checks.
        requirements: The requirements.
        confidence: Coverage of the intervals.
        asked: Models that were asked for, of which one may not be there; a requirement of that one isn't met.

    Raises:
        InputError: A requirement has another form, is about a difference, or names what the audit doesn't have.
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
    several = parsed(requirements)
    check_names(several, list(dict.fromkeys([*result.models, *asked])), result.attacks, result.classes)
    return Verdicts(verdict for one in several for verdict in _of_models(result, check_results, one, confidence))


def _of_models(
    result: AuditTable, check_results: Sequence[CheckResult], one: Requirement, confidence: float
) -> Iterator[Verdict]:
    attack = result.overall if one.attack in (None, WORST_CASE) else one.attack
    at = f"at {result.threat}" if result.threat.is_ball else "without attack"
    if one.measure == "findings":
        measured, about = _findings(result, check_results, one), f"findings {at}"
        yield Verdict.of(one, _if_finished(result, measured), confidence, model=one.model, about=about)
        return
    about = f"examples {at}" if one.measure == "examples" else f"robust accuracy under {attack} {at}"
    about = f"accuracy under {attack}" if one.measure != "examples" and not result.adversaries else about
    about = "clean accuracy" if one.kind == "clean" else about
    for model in result.models if one.model is None else [one.model]:
        if model not in result.models:
            measured = Measured.unknown("The model isn't in the audit: it couldn't be loaded.")
        else:
            measured = of_model(result, one, model, confidence)
        yield Verdict.of(one, _if_finished(result, measured), confidence, model=model, about=about)


def _if_finished(result: AuditTable, measured: Measured) -> Measured:
    """Return what was measured, with a reason where attacks are still to come: they may lower it."""
    if result.finished:
        return measured
    return measured._replace(reason=f"The audit isn't finished. {' '.join(result.missing)}")


def _findings(result: AuditTable, check_results: Sequence[CheckResult], one: Requirement) -> Measured:
    if one.model is not None and one.model not in result.models:
        return Measured.unknown("The model isn't in the audit: it couldn't be loaded.")
    chosen = [r for r in check_results if one.model in (None, r.model) and one.name in (None, r.check.name)]
    found = [f for r in chosen for f in r.findings]
    n = result.outcomes["example"].nunique()
    measured = Measured(len(found), len(found), len(found), n)
    networks = [name for name in result.models if name not in result.manifest.probes and one.model in (None, name)]
    if one.name is None and networks:
        named = f"{', '.join(networks[:3])}{f' and {len(networks) - 3} more' if networks[3:] else ''}"
        return measured._replace(reason=f"The networks themselves weren't checked (--checks): {named}.")
    ran = {r.model for r in chosen if r.skipped is None}
    skipped = next((r for r in chosen if r.model not in ran), None)
    if one.name is not None and skipped is not None:
        on = "" if skipped.model is None else f" on {skipped.model}"
        return measured._replace(reason=f"The check wasn't run{on}: {skipped.skipped}.")
    return measured


def judge_pairs(pairs: Sequence[Pair], requirements: Requirement | str | Iterable[Requirement | str]) -> Verdicts:
    """Judge requirements of differences, of each pair.

    Args:
        pairs: On the same classes.
        requirements: About differences. One that names a model is about the pairs in which that one is the first.

    Raises:
        InputError: A requirement has another form, isn't about a difference, or names no class or no first one.
    """
    several = parsed(requirements)
    classes = [str(name) for name in pairs[0].by_class.index]
    firsts = list(dict.fromkeys(pair.first for pair in pairs))
    for one in several:
        if not one.difference:
            raise InputError(
                f"{one.text!r} is about one model: it is for art-classwise audit and report. A comparison has "
                "differences, as in 'difference:worst > -0.02'."
            )
        if one.measure == "class" and one.name not in classes:
            raise unknown(f"class in the requirement {one.text!r}:", one.name, classes)
        if one.model is not None and one.model not in firsts:
            raise unknown(f"first of a pair in the requirement {one.text!r}:", one.model, firsts)

    def verdicts() -> Iterator[Verdict]:
        for one in several:
            for pair in pairs:
                if one.model in (None, pair.first):
                    names = {"model": pair.first, "other": pair.second, "about": pair.about}
                    yield Verdict.of(one, of_comparison(pair, one), pair.confidence, **names)

    return Verdicts(verdicts())
