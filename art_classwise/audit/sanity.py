"""What looks wrong with an audit: the checks that a careful reviewer makes, on outcomes and probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from art_classwise._core.display import Shown
from art_classwise.audit._checks import ATTACK_CHECKS, DIFFERS, NETWORK_CHECKS
from art_classwise.audit._evidence import Evidence, of, points
from art_classwise.audit._outcomes import parts
from art_classwise.datasets.catalog import DATASETS
from art_classwise.metrics.intervals import wilson
from art_classwise.threat import ThreatModel

if TYPE_CHECKING:
    from art_classwise.audit._table import AuditTable

__all__ = ["DIFFERS", "Finding", "Findings", "findings"]

_FEW = 50  # examples: the interval of one class is then up to 27 points wide

_SMALLEST, _LARGEST = 1 / 8, 2.5


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


def findings(result: AuditTable) -> Findings:
    """Return what looks wrong with an audit; nothing, if it and its models look healthy.

    Looked for are

    - masked gradients (Athalye et al. 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv 1902.06705): gradients that
      are zero; examples that withstand where any image can become grey; black-box attacks that find more than
      white-box ones, one step more than many, few steps more than many;
    - a weak attack: more steps or restarts still find many more, its steps end within the ball, AutoAttack ran without
      some of its members, or a reference attack (margin PGD, 40 steps, on 32 examples) breaks what withstood all
      attacks;
    - networks that are random, that depend on the batch or that train on in eval mode;
    - inputs that aren't normalised as the network expects, and clean accuracy near chance;
    - labels that are numbered otherwise than the network's classes;
    - too few examples of a class for a claim about it; a radius out of the usual range;
    - numbers that differ from those published for the model, beyond intervals that allow for the number of models
      (together one false one in a hundred audits), where the classes are as frequent as in the whole test set.

    What compares attacks with each other asks for a significant difference (McNemar's exact test, one-sided, at 1 %),
    and needs each of them tried on all examples: in an audit with ``worst_case=True`` it isn't looked for. What
    concerns a network itself comes from the audit's probes: see ``checks`` of :class:`art_classwise.ClassWiseAudit`.
    """
    found = [*_few_examples(result), *_radius(result)]
    for name in result.models:
        tables = {attack: rows for (_, attack), rows in parts(_of_model(result, name)).items()}
        if not tables:
            continue
        evidence = Evidence(result, name, tables)
        for check in (*ATTACK_CHECKS, *NETWORK_CHECKS):
            found += [Finding(name, what, saw, advice) for what, saw, advice in check(evidence)]
    return Findings(found)


def _of_model(result: AuditTable, name: str) -> pd.DataFrame:
    return result.outcomes[result.outcomes["model"] == name]


def _few_examples(result: AuditTable) -> Iterator[Finding]:
    rows = _of_model(result, result.models[0])
    n = np.bincount(rows.drop_duplicates("example")["label"].to_numpy(), minlength=len(result.classes))
    few = (n > 0) & (n < _FEW)
    if few.any():
        low, high = wilson(n[few].min() / 2, n[few].min())
        absent = f"; {of(int((n == 0).sum()), len(n))} have none" if (n == 0).any() else ""
        yield Finding(
            None,
            "few examples",
            f"{of(int(few.sum()), len(n))} classes have fewer than {_FEW} examples: an interval is up to "
            f"{points(float(high - low))} points wide{absent}.",
            "Use more examples, or make no claim about single classes: group them, result.by_group(...).",
        )


def _radius(result: AuditTable) -> Iterator[Finding]:
    dataset, (norm, eps) = result.manifest.examples.dataset, (result.threat.norm, result.threat.eps)
    spec = DATASETS.get(dataset)
    if spec is None:
        return
    own = ThreatModel.parse(spec.threat)
    usual = own.eps if norm == own.norm else spec.radii.get(norm)
    if usual is not None and not _SMALLEST * usual <= eps <= _LARGEST * usual:
        yield Finding(
            None,
            "unusual radius",
            f"The radius {result.threat} is {eps / usual:.2g} times the usual one for {dataset}.",
            "Radii are in the units of images in [0, 1]: 8 of 255 levels is Linf:8/255.",
        )
