"""What looks wrong with attacks: gradients that are masked, attacks that are weak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from art_classwise.attacks.autoattack import MEMBERS, members_left_out, members_of, needs_gradients
from art_classwise.audit._evidence import (
    Evidence,
    Observations,
    is_black_box,
    is_many_step,
    is_one_step,
    kind,
    number,
    of,
    points,
    steps_length,
)
from art_classwise.metrics.intervals import wilson

__all__ = ["ATTACK_CHECKS"]

_ZERO_SHARE = 0.05
_MISSED = 0.05  # of what is attacked in vain, what may be chance
_WEAKER = 0.1  # of what withstood, what a stronger attack breaks of healthy networks, too
_STILL_GAINS = 0.01
_LEAST = 3  # examples: fewer are no pattern

_MASKED, _WEAK = "masked gradients", "weak attack"
_TRY_OTHERWISE = (
    "Attack it otherwise: without gradients (square), by transfer from another network, or through a differentiable "
    "stand-in for what masks them."
)


def _zero_gradients(evidence: Evidence) -> Observations:
    n = int(evidence.right.sum())
    shares = {a: float(t["zero_gradient"].to_numpy()[evidence.right].mean()) for a, t in evidence.tables.items() if n}
    worst = max(shares, key=lambda a: shares[a], default=None)
    if worst is not None and shares[worst] >= _ZERO_SHARE:
        yield (
            _MASKED,
            f"{worst} met gradients that were zero, or not finite, on {points(shares[worst])} % of the {n} examples "
            "that are classified correctly.",
            "Look for a softmax, a rounding or a saturated activation before the loss, and return logits. "
            + _TRY_OTHERWISE,
        )


def _far(evidence: Evidence) -> Observations:
    if evidence.probe is None:
        return
    n = len(evidence.probe.attacked)
    for k, said in (
        (
            evidence.probe.zero_gradient,
            f"met gradients that were zero in {evidence.probe.reference} steps of margin PGD.",
        ),
        (
            evidence.probe.far_withstood,
            f"withstood margin PGD of radius {evidence.probe.far_eps:g}, within which any image can become a grey one.",
        ),
    ):
        if k >= _LEAST and float(wilson(k, n)[0]) > _MISSED:
            yield _MASKED, f"{of(k, n)} examples {said}", _TRY_OTHERWISE


def _black_box(evidence: Evidence) -> Observations:
    white = [evidence.withstood[a] for a, told in evidence.attacks.items() if not is_black_box(told)]
    if not white:
        return
    under_white = np.logical_and.reduce(white)
    for attack, told in evidence.attacks.items():
        if is_black_box(told) and evidence.finds_more(evidence.withstood[attack], under_white):
            yield (
                _MASKED,
                f"{attack}, without this network's gradients, leaves {points(evidence.withstood[attack].mean())} % "
                f"robust accuracy; all attacks with them {points(under_white.mean())} %.",
                _TRY_OTHERWISE,
            )


def _one_step(evidence: Evidence) -> Observations:
    many = {
        a: evidence.withstood[a] for a, told in evidence.attacks.items() if is_many_step(told, evidence.result.threat)
    }
    if not many:
        return
    best = min(many, key=lambda a: many[a].mean())
    for attack, told in evidence.attacks.items():
        if is_one_step(told) and evidence.finds_more(evidence.withstood[attack], many[best]):
            yield (
                _MASKED,
                f"One step ({attack}) leaves {points(evidence.withstood[attack].mean())} % robust accuracy, many steps "
                f"({best}) {points(many[best].mean())} %.",
                "Many steps get lost on a rugged loss: try shorter or longer steps, more restarts and square.",
            )


def _effort(told: Mapping[str, Any]) -> float:
    return (number(told, "max_iter") or 1) * (number(told, "num_random_init") or 1)


def _families(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Give, of attacks that differ in steps and restarts alone, the one of most effort and that before it."""
    families: dict[str, list[str]] = {}
    for attack, told in evidence.attacks.items():
        if is_many_step(told, evidence.result.threat):
            same = {k: v for k, v in told.items() if k not in ("max_iter", "num_random_init", "eps_step")}
            families.setdefault(repr(sorted(same.items(), key=str)), []).append(attack)
    for names in families.values():
        efforts = {attack: _effort(evidence.attacks[attack]) for attack in names}
        strongest = max(efforts, key=efforts.__getitem__)
        weaker = [attack for attack in names if efforts[attack] < efforts[strongest]]
        if weaker:
            yield max(weaker, key=efforts.__getitem__), strongest


def _more_effort(evidence: Evidence) -> Observations:
    for weaker, strongest in _families(evidence):
        less, more = evidence.withstood[weaker], evidence.withstood[strongest]
        if evidence.finds_more(less, more):
            yield (
                _MASKED,
                f"{strongest} leaves {points(more.mean())} % robust accuracy, {weaker}, of less effort, "
                f"{points(less.mean())} %.",
                "More steps should never find less: look for randomness, and try shorter steps.",
            )
            continue
        gained, n = int(np.sum(less & ~more)), len(more)
        rests_on_it = more.mean() - evidence.held.mean() < _STILL_GAINS
        if rests_on_it and float(wilson(gained, n)[0]) > _STILL_GAINS and gained > 0.02 * n:
            yield (
                _WEAK,
                f"From {weaker} to {strongest} robust accuracy falls by {points(gained / n)} points more.",
                "It would fall further: take more steps and restarts, or autoattack.",
            )


def _reference(evidence: Evidence) -> Observations:
    if evidence.probe is None:
        return
    held = {*evidence.ids[evidence.held].tolist()}
    tried, broken = held & {*evidence.probe.attacked}, held & {*evidence.probe.broken}
    if len(broken) >= _LEAST and float(wilson(len(broken), len(tried))[0]) > _WEAKER:
        yield (
            _WEAK,
            f"Margin PGD of {evidence.probe.reference} steps broke {of(len(broken), len(tried))} examples that "
            "withstood all attacks of the audit.",
            "Add stronger attacks: margin-20, pgd-100x5, autoattack.",
        )


def _short_steps(evidence: Evidence) -> Observations:
    for attack, told in evidence.attacks.items():
        reach = steps_length(told)
        if reach is not None and reach < 0.999 * evidence.result.threat.eps and not is_black_box(told):
            yield (
                _WEAK,
                f"The steps of {attack} lead {reach:.3g} far, and the radius is {evidence.result.threat.eps:.3g}.",
                "Take longer steps, or more of them: a quarter of the radius is usual.",
            )


def _left_out(evidence: Evidence) -> Observations:
    n_classes, worst_case = len(evidence.result.classes), bool(evidence.result.info.get("worst_case"))
    tried = evidence.right
    for attack, table in evidence.tables.items():
        attacked = tried
        tried = evidence.withstood[attack] if worst_case else evidence.right  # by the next
        told = evidence.result.info.get("attacks", {}).get(attack, {})
        if kind(told) != "AutoAttack":
            continue
        asked = told.get("attacks") if isinstance(told.get("attacks"), (str, list)) else ()
        for member, why in members_left_out(asked, n_classes).items():
            yield (
                _WEAK,
                f"{attack} ran without {member}, which {why}.",
                "Let another attack stand in for it: margin-20, or PGD with restarts.",
            )
        led = [m for m in MEMBERS if m in members_of(asked, n_classes) and needs_gradients(m)]
        if led and attacked.any() and bool(table["zero_gradient"].to_numpy()[attacked].all()):
            names = " and ".join(filter(None, (", ".join(led[:-1]), led[-1])))
            yield (
                _WEAK,
                f"Of {attack}, {names} met no gradient to go by on any of the {int(attacked.sum())} examples: where "
                "none goes through the network, they don't run.",
                _TRY_OTHERWISE,
            )


ATTACK_CHECKS = (_zero_gradients, _far, _black_box, _one_step, _more_effort, _short_steps, _reference, _left_out)
"""Each yields what it saw of a model."""
