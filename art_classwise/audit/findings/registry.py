"""The checks of an audit, each a record in one table, and what comes of running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from art_classwise._core.display import Shown
from art_classwise.audit.findings import attack_checks, network_checks
from art_classwise.audit.findings.attack_checks import (
    HEALTHY_SHARE,
    ZERO_SHARE,
    Observations,
    reference_counts,
    weaker_share,
)
from art_classwise.audit.findings.evidence import Evidence, detectable_share, is_black_box, is_one_step, points
from art_classwise.audit.outcomes import parts_of
from art_classwise.audit.probes import CHANNELS, Probe

if TYPE_CHECKING:
    from art_classwise.audit.outcomes import AuditTable

LEVEL = 0.01
"""What the chance of a false alarm of all statistical checks of an audit together is held to."""

DIFFERS = "differs from what is published"
"""The check of published numbers."""


@dataclass(frozen=True, repr=False)
class Finding(Shown):
    """Something that looks wrong.

    Attributes:
        model: The model; None where it concerns the audit as a whole.
        check: What was looked for, e.g. ``"masked gradients"``.
        saw: What was evidence, a sentence.
        advice: What to try, a sentence.
    """

    model: str | None
    check: str
    saw: str
    advice: str

    def __str__(self) -> str:
        return f"{'' if self.model is None else self.model + ': '}{self.check}: {self.saw} {self.advice}"


class Findings(Shown, tuple[Finding, ...]):
    """What looks wrong, in the order it was looked for; empty, if nothing does."""

    __slots__ = ()


Tried: TypeAlias = Callable[[Evidence], tuple[int, float | None]]
"""Evidence -> on how many examples a check ran, and the smallest share of them that would have shown, if it is one."""


@dataclass(frozen=True)
class Check:
    """A check of an audit.

    Attributes:
        name: Of what it finds; several checks may look for one thing.
        looks_for: What would be a finding, a clause in plain English.
        function: Yields what it saw of a model, and advice.
        needs: Returns why the check can't run; nothing if it can.
        tried: Returns on how many examples it ran, and the smallest share of them that would have shown.
        statistical: Whether chance may raise a false alarm, so that its level allows for the number of models and
            checks.
        once: Whether it concerns the audit as a whole, and runs on the first model only.
        adversarial: Whether it is about adversaries, and doesn't run where there are corruptions only.
    """

    name: str
    looks_for: str
    function: Callable[[Evidence], Observations]
    needs: Callable[[Evidence], str | None] = lambda evidence: None
    tried: Tried = lambda evidence: (len(evidence.label), None)
    statistical: bool = False
    once: bool = False
    adversarial: bool = False


def _needs_probe(evidence: Evidence) -> str | None:
    return None if evidence.probe is not None else "the network itself wasn't tried"


def _needs_tried(is_tried: Callable[[Probe], bool]) -> Callable[[Evidence], str | None]:
    """Return what tells whether a probe holds what a check is about: those of earlier releases hold less."""

    def needs(evidence: Evidence) -> str | None:
        if evidence.probe is None or is_tried(evidence.probe):
            return _needs_probe(evidence)
        return "the release that made the audit didn't try it; the same command tries it now"

    return needs


def _needs_colours(evidence: Evidence) -> str | None:
    if evidence.probe is not None and evidence.probe.is_complete and CHANNELS not in evidence.probe.alternatives:
        return "images don't have three channels"
    return _needs_tried(lambda probe: CHANNELS in probe.alternatives)(evidence)


def _needs_labels(evidence: Evidence) -> str | None:
    needs = _needs_tried(lambda probe: probe.unlikely_labels is not None)
    return "there are fewer than five classes" if len(evidence.result.classes) < 5 else needs(evidence)


def _needs_black_box(evidence: Evidence) -> str | None:
    kinds = [is_black_box(given) for given in evidence.comparable.values()]
    if all(kinds) or not any(kinds):
        return _on_all("there aren't both attacks with and without gradients", evidence)
    return None


def _needs_one_step(evidence: Evidence) -> str | None:
    if any(map(is_one_step, evidence.comparable.values())) and not all(map(is_one_step, evidence.comparable.values())):
        return None
    return _on_all("there aren't both an attack of one step and one of many", evidence)


def _needs_pair(evidence: Evidence) -> str | None:
    if attack_checks.effort_pairs(evidence):
        return None
    return _on_all("no two attacks differ in steps and restarts alone", evidence)


def _on_all(otherwise: str, evidence: Evidence) -> str:
    """Return why attacks aren't compared."""
    return "each attack counts with those before it (worst_case)" if evidence.manifest.worst_case else otherwise


def _needs_published(evidence: Evidence) -> str | None:
    if evidence.name not in evidence.manifest.published:
        return "nothing is known to be published of the model"
    return None if network_checks.is_balanced(evidence) else "the classes aren't as frequent as in a whole test set"


def _shown(n: int, share: float, evidence: Evidence) -> tuple[int, float | None]:
    return n, detectable_share(n, share, evidence.level)


def _zero_tried(evidence: Evidence) -> tuple[int, float | None]:
    return int(evidence.right.sum()), ZERO_SHARE


def _reference_tried(evidence: Evidence) -> tuple[int, float | None]:
    return _shown(reference_counts(evidence)[1], weaker_share(evidence), evidence)


def _errors_tried(evidence: Evidence) -> tuple[int, float | None]:
    _, errors, share = network_checks.label_errors(evidence)
    return _shown(errors, share, evidence)


def _probed(count: Callable[[Probe], int], share: float | None = None) -> Tried:
    """Return what tells of a check of the probe on how many examples it ran; more than a share of them is odd."""

    def tried(evidence: Evidence) -> tuple[int, float | None]:
        n = 0 if evidence.probe is None else count(evidence.probe)
        return (n, None) if share is None else _shown(n, share, evidence)

    return tried


def _single_shows(evidence: Evidence, most: int = 64) -> tuple[int, float | None]:
    n = 0 if evidence.probe is None else min(most, evidence.probe.n)
    return n, detectable_share(n) if n else 1.0


_few = _probed(lambda probe: probe.n)
_alternatives = _probed(lambda probe: probe.alternatives_tried)

_MASKED, _WEAK = "masked gradients", "weak attack"

CHECKS: tuple[Check, ...] = (
    Check(
        "few examples", "classes with too few examples for a claim about each", network_checks.few_examples, once=True
    ),
    Check(
        "unusual radius",
        "a radius far from those in use for the data set",
        network_checks.unusual_radius,
        once=True,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "zero gradients in the audit's attacks",
        attack_checks.zero_gradients,
        tried=_zero_tried,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "zero gradients in the reference attack",
        attack_checks.zero_in_reference,
        _needs_probe,
        _probed(lambda probe: len(probe.attacked), HEALTHY_SHARE),
        statistical=True,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "examples that withstand where any image can become grey",
        attack_checks.far_attack,
        _needs_probe,
        _probed(lambda probe: probe.far_attacked, HEALTHY_SHARE),
        statistical=True,
        adversarial=True,
    ),
    Check(
        "false gradients",
        "gradients that differ from finite differences of the margin: random, zero, negated or straight-through ones",
        attack_checks.false_gradients,
        _needs_tried(lambda probe: probe.is_complete),
        _probed(lambda probe: probe.gradients_tried, HEALTHY_SHARE),
        statistical=True,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "attacks without gradients that find more than those with",
        attack_checks.black_box,
        _needs_black_box,
        statistical=True,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "one step that finds more than many",
        attack_checks.one_step,
        _needs_one_step,
        statistical=True,
        adversarial=True,
    ),
    Check(
        _MASKED,
        "more steps and restarts that find less",
        attack_checks.effort_finds_less,
        _needs_pair,
        statistical=True,
        adversarial=True,
    ),
    Check(
        _WEAK,
        "more steps and restarts that still find many more",
        attack_checks.effort_still_gains,
        _needs_pair,
        statistical=True,
        adversarial=True,
    ),
    Check(_WEAK, "steps that end within the ball", attack_checks.short_steps, adversarial=True),
    Check(_WEAK, "no gradient attack of ten steps or more", attack_checks.no_many_steps, adversarial=True),
    Check("another threat model", "attacks of another norm or radius", attack_checks.other_threat, adversarial=True),
    Check(
        _WEAK,
        "examples that withstood all attacks, but not the reference attack (margin PGD, 40 steps)",
        attack_checks.reference_attack,
        _needs_probe,
        _reference_tried,
        statistical=True,
        adversarial=True,
    ),
    Check(_WEAK, "members of AutoAttack that didn't run", attack_checks.left_out, adversarial=True),
    Check(
        "random network",
        "predictions that change when repeated",
        network_checks.randomness,
        _needs_probe,
        _single_shows,
    ),
    Check(
        "batch-dependent network",
        "predictions that depend on the other images of a batch",
        network_checks.batch_dependence,
        _needs_probe,
        lambda evidence: _single_shows(evidence, 16),
    ),
    Check(
        "network in training mode",
        "layers in training mode after eval()",
        network_checks.training_mode,
        _needs_probe,
        _few,
    ),
    Check(
        "wrong normalisation",
        "images normalised otherwise that are classified better",
        network_checks.normalisation,
        _needs_probe,
        _alternatives,
        statistical=True,
    ),
    Check(
        "wrong channel order",
        "images with channels reversed that are classified better",
        network_checks.channel_order,
        _needs_colours,
        _alternatives,
        statistical=True,
    ),
    Check(
        "probabilities instead of logits",
        "outputs that sum to 1",
        network_checks.probabilities,
        _needs_tried(lambda probe: probe.probabilities is not None),
        _few,
    ),
    Check(
        "constant logits",
        "images for which all logits are equal",
        network_checks.constant_logits,
        _needs_tried(lambda probe: probe.constant is not None),
        _single_shows,
    ),
    Check("accuracy near chance", "clean accuracy no better than chance", network_checks.chance_accuracy),
    Check(
        "misaligned labels", "labels numbered otherwise than the network's classes", network_checks.misaligned_labels
    ),
    Check(
        "wrong labels",
        "errors whose labels the network finds unlikely",
        network_checks.wrong_labels,
        _needs_labels,
        _errors_tried,
        statistical=True,
    ),
    Check(
        DIFFERS,
        "clean or robust accuracy that differs from what is published of the model",
        network_checks.published_numbers,
        _needs_published,
        statistical=True,
    ),
)
"""All checks, in the order in which they run."""

_NO_ADVERSARY = "corruptions are no attack"
_STATISTICAL = sum(check.statistical for check in CHECKS)


@dataclass(frozen=True)
class CheckResult:
    """What came of one check of one model.

    Attributes:
        model: The model; None where it concerns the audit as a whole.
        check: The check.
        findings: What it found.
        tried: On how many examples it ran.
        detectable: The smallest share of them that would have shown with a probability of 97.5 %; None where the check
            isn't about a share.
        skipped: Why it didn't run; None if it did.
    """

    model: str | None
    check: Check
    findings: tuple[Finding, ...] = ()
    tried: int = 0
    detectable: float | None = None
    skipped: str | None = None

    @property
    def result(self) -> Literal["found", "nothing found", "not run"]:
        """What came of it, in two words."""
        return "not run" if self.skipped else "found" if self.findings else "nothing found"

    @property
    def explanation(self) -> str:
        """What was seen; why it didn't run; or what it could have missed."""
        if self.skipped:
            return f"Not run: {self.skipped}."
        if self.findings:
            return " ".join(finding.saw for finding in self.findings)
        if self.detectable is None:
            return f"{self.tried:,} examples tried."
        if self.detectable >= 1:
            return f"{self.tried:,} examples tried: too few for this check."
        return f"{self.tried:,} examples tried; a share below {points(self.detectable)} % might not show."


def evidences(result: AuditTable) -> Iterator[Evidence]:
    """Yield what there is to look at of each model that has outcomes."""
    level = LEVEL / (_STATISTICAL * max(1, len(result.models)))
    for name in result.models:
        tables = parts_of(result, name)
        tables = {attack: tables[attack] for attack in tables if attack in result.adversaries} or tables
        if tables:
            yield Evidence(result, name, tables, level)


def run_checks(result: AuditTable) -> list[CheckResult]:
    """Run all checks on all models of an audit."""
    results = []
    for place, evidence in enumerate(evidences(result)):
        for check in CHECKS:
            if check.once and place:
                continue
            name = None if check.once else evidence.name
            skipped = check.needs(evidence) if evidence.adversaries or not check.adversarial else _NO_ADVERSARY
            if skipped is not None:
                results.append(CheckResult(name, check, skipped=skipped))
                continue
            found = tuple(Finding(name, check.name, saw, advice) for saw, advice in check.function(evidence))
            tried, detectable = check.tried(evidence)
            results.append(CheckResult(name, check, found, tried, detectable))
    return sorted(results, key=lambda one: one.model is not None)  # those of the whole audit first


def checks_table(results: Sequence[CheckResult]) -> pd.DataFrame:
    """Return a row per check: see :attr:`art_classwise.AuditResult.checks`."""
    rows = [
        (
            one.model,
            one.check.name,
            one.check.looks_for,
            one.result,
            one.tried,
            np.nan if one.detectable is None else one.detectable,
            one.explanation,
        )
        for one in results
    ]
    columns = ["model", "check", "looks_for", "result", "tried", "detectable", "explanation"]
    return pd.DataFrame(rows, columns=columns)
