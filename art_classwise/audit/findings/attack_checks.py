"""Checks of the attacks: whether gradients are masked, and whether the attacks are weak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from art_classwise.attacks.autoattack import members_left_out, needs_gradients
from art_classwise.audit.findings.evidence import (
    Evidence,
    asked_members,
    attack_kind,
    can_leave_ball,
    exceeds,
    is_black_box,
    is_many_step,
    is_one_step,
    is_same_norm,
    is_within,
    number,
    of,
    points,
    search_parameters,
    steps_length,
)

ZERO_SHARE = 0.05
"""Of the correctly classified examples, how many may meet a zero gradient."""

HEALTHY_SHARE = 0.01
"""What may be odd of a healthy network's examples."""

WEAKER_SHARE, WEAKER_POINTS = 0.08, 0.05
"""Of the examples that withstood, and of all, what a stronger attack breaks of healthy networks, too."""

STILL_GAINS = 0.01
"""What more effort may still gain."""

_USE_ANOTHER = (
    "Use another attack: without gradients (square), by transfer from another network, or through a differentiable "
    "replacement of whatever masks them."
)

Observations = Iterator[tuple[str, str]]
"""What a check yields: what was seen, what to try."""


def zero_gradients(evidence: Evidence) -> Observations:
    n = int(evidence.right.sum())
    shares = {a: float(t["zero_gradient"].to_numpy()[evidence.right].mean()) for a, t in evidence.tables.items() if n}
    worst = max(shares, key=lambda a: shares[a], default=None)
    if worst is not None and shares[worst] >= ZERO_SHARE:
        yield (
            f"{worst} met zero or non-finite gradients on {points(shares[worst])} % of the {n} correctly classified "
            "examples.",
            "Look for a softmax, a rounding or a saturated activation before the loss, and return logits. "
            + _USE_ANOTHER,
        )


def zero_in_reference(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and exceeds(probe.zero_gradient, len(probe.attacked), HEALTHY_SHARE, evidence.level):
        yield (
            f"{of(probe.zero_gradient, len(probe.attacked))} examples had zero gradients in {probe.reference} steps of "
            "margin PGD.",
            _USE_ANOTHER,
        )


def far_attack(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and exceeds(probe.far_withstood, probe.far_attacked, HEALTHY_SHARE, evidence.level):
        yield (
            f"{of(probe.far_withstood, probe.far_attacked)} examples withstood margin PGD at radius "
            f"{probe.far_eps:g}, which can turn any image grey.",
            _USE_ANOTHER,
        )


def false_gradients(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and exceeds(probe.gradients_wrong, probe.gradients_tried, HEALTHY_SHARE, evidence.level):
        yield (
            f"On {of(probe.gradients_wrong, probe.gradients_tried)} images a small step along the gradient changes the "
            f"margin otherwise than the gradient says: by {probe.derivative_ratio:.2g} of it in the median.",
            "The backward pass isn't the derivative of the forward pass: look for randomness, rounding, detach(), a "
            "straight-through estimator or an own backward(). " + _USE_ANOTHER,
        )


def black_box(evidence: Evidence) -> Observations:
    white = [evidence.withstood[a] for a, given in evidence.comparable.items() if not is_black_box(given)]
    black = [a for a, given in evidence.comparable.items() if is_black_box(given)]
    if not white:
        return
    under_white = np.logical_and.reduce(white)
    for attack in black:
        if evidence.finds_more(evidence.withstood[attack], under_white, len(black)):
            yield (
                f"{attack}, which doesn't use this network's gradients, leaves "
                f"{points(evidence.withstood[attack].mean())} % robust accuracy; all attacks that use them "
                f"{points(under_white.mean())} %.",
                _USE_ANOTHER,
            )


def one_step(evidence: Evidence) -> Observations:
    many = {a: evidence.withstood[a] for a, p in evidence.comparable.items() if can_leave_ball(p, evidence.threat)}
    single = [a for a, given in evidence.comparable.items() if is_one_step(given)]
    if not many:
        return
    best = min(many, key=lambda a: many[a].mean())
    for attack in single:
        if evidence.finds_more(evidence.withstood[attack], many[best], len(single)):
            yield (
                f"One step ({attack}) leaves {points(evidence.withstood[attack].mean())} % robust accuracy, many steps "
                f"({best}) {points(many[best].mean())} %.",
                "A rugged loss can mislead many steps: try shorter or longer steps, more restarts and square.",
            )


def _effort(parameters: Mapping[str, Any]) -> float:
    return (number(parameters, "max_iter") or 1) * (number(parameters, "num_random_init") or 1)


def effort_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    """Return, of attacks that differ in steps and restarts alone, the one before the last in effort, and the last."""
    families: dict[str, list[str]] = {}
    for attack, given in evidence.comparable.items():
        if can_leave_ball(given, evidence.threat):
            same = {k: v for k, v in given.items() if k not in ("max_iter", "num_random_init", "eps_step")}
            families.setdefault(repr(sorted(same.items(), key=str)), []).append(attack)
    pairs = []
    for names in families.values():
        efforts = {attack: _effort(evidence.comparable[attack]) for attack in names}
        strongest = max(efforts, key=efforts.__getitem__)
        weaker = [attack for attack in names if efforts[attack] < efforts[strongest]]
        if weaker:
            pairs.append((max(weaker, key=efforts.__getitem__), strongest))
    return pairs


def effort_finds_less(evidence: Evidence) -> Observations:
    pairs = effort_pairs(evidence)
    for weaker, strongest in pairs:
        less, more = evidence.withstood[weaker], evidence.withstood[strongest]
        if evidence.finds_more(less, more, len(pairs)):
            yield (
                f"{strongest} leaves {points(more.mean())} % robust accuracy, the weaker {weaker} "
                f"{points(less.mean())} %.",
                "More steps should never find less: look for randomness, and try shorter steps.",
            )


def effort_still_gains(evidence: Evidence) -> Observations:
    pairs = effort_pairs(evidence)
    for weaker, strongest in pairs:
        less, more = evidence.withstood[weaker], evidence.withstood[strongest]
        gained, n = int(np.sum(less & ~more)), len(more)
        decisive = more.mean() - evidence.held.mean() < STILL_GAINS
        if decisive and exceeds(gained, n, STILL_GAINS, evidence.level / len(pairs)) and gained > 0.02 * n:
            yield (
                f"From {weaker} to {strongest} robust accuracy still falls by {points(gained / n)} points.",
                "More effort would lower it further: use more steps and restarts, or autoattack.",
            )


def reference_attack(evidence: Evidence) -> Observations:
    if evidence.probe is None:
        return
    broken, tried = reference_counts(evidence)
    if exceeds(broken, tried, weaker_share(evidence), evidence.level):
        yield (
            f"Margin PGD of {evidence.probe.reference} steps broke {of(broken, tried)} examples that withstood all "
            f"attacks of the audit: robust accuracy is about {points(evidence.held.mean() * broken / tried)} points "
            "too high.",
            "Add stronger attacks: margin-20, pgd-100x5, autoattack.",
        )


def weaker_share(evidence: Evidence) -> float:
    """Return which share of the examples that withstood a stronger attack may break of a healthy network."""
    held = float(evidence.held.mean())
    return min(1.0, max(WEAKER_SHARE, WEAKER_POINTS / held)) if held > 0 else 1.0


def reference_counts(evidence: Evidence) -> tuple[int, int]:
    """Return how many of the examples that withstood the reference attack broke, and on how many it was tried."""
    if evidence.probe is None:
        return 0, 0
    held = {*evidence.ids[evidence.held].tolist()}
    return len(held & {*evidence.probe.broken}), len(held & {*evidence.probe.attacked})


def short_steps(evidence: Evidence) -> Observations:
    for attack, given in evidence.parameters.items():
        reach = steps_length(given)
        if is_within(given, evidence.threat) and reach is not None and reach < 0.999 * evidence.threat.eps:
            yield (
                f"The steps of {attack} cover at most {reach:.3g}, but the radius is {evidence.threat.eps:.3g}.",
                "Use longer or more steps: a quarter of the radius is a usual step size.",
            )


def no_many_steps(evidence: Evidence) -> Observations:
    n_classes = len(evidence.result.classes)
    if any(is_many_step(given, evidence.threat, n_classes) for given in evidence.parameters.values()):
        return
    yield (
        f"No attack ({', '.join(evidence.parameters)}) is a gradient search of 10 steps or more within "
        f"{evidence.threat}, as far as its parameters tell.",
        "Robust accuracy may be far lower: add pgd-20 and margin-20, or autoattack.",
    )


def other_threat(evidence: Evidence) -> Observations:
    threat = evidence.threat
    for attack, given in evidence.parameters.items():
        search = search_parameters(given)
        eps, norm = number(search, "eps"), search.get("norm")
        if search.get("random_eps") is True:
            yield (
                f"{attack} draws its radii at random, most of them well below eps.",
                "It may miss what the threat model allows: make it without random_eps.",
            )
        if isinstance(norm, bool) or not isinstance(norm, (int, float, str)):
            continue
        if eps is None:  # one that looks for the smallest perturbation, in its own norm
            if not is_same_norm(norm, threat):
                yield (
                    f"{attack} looks for perturbations that are small in norm {norm}, but the audit is for {threat}.",
                    "It may miss what the threat model allows: give it the audit's norm.",
                )
            continue
        seeks = f"{attack} searches within norm {norm} and eps {eps:.4g}, but the audit is for {threat}"
        if not is_same_norm(norm, threat):
            yield f"{seeks}.", "It may miss what the threat model allows: give it the audit's norm."
        elif eps < 0.99 * threat.eps:
            yield f"{seeks}.", "It misses what the threat model allows: give it the audit's radius."
        elif eps > 1.01 * threat.eps:
            yield (
                f"{seeks}: what it finds farther away is brought back into the ball, where it may succeed no longer.",
                "Give it the audit's radius.",
            )


def left_out(evidence: Evidence) -> Observations:
    n_classes, blind = len(evidence.result.classes), _met_no_gradient(evidence)
    for attack, given in evidence.parameters.items():
        if attack_kind(given) != "AutoAttack":
            continue
        members: Any = given.get("attacks") if isinstance(given.get("attacks"), (str, list)) else ()
        for member, why in members_left_out(members, n_classes).items():
            yield (
                f"{attack} ran without {member}, which {why}.",
                "Add another attack in its place: margin-20, or PGD with restarts.",
            )
        by_gradients = [*filter(needs_gradients, asked_members(given, n_classes))]
        if by_gradients and attack in blind:
            names = " and ".join(filter(None, (", ".join(by_gradients[:-1]), by_gradients[-1])))
            yield (
                f"In {attack}, {names} found no gradient on any of the {blind[attack]} examples: if no gradient "
                "passes through the network, they don't run.",
                _USE_ANOTHER,
            )


def _met_no_gradient(evidence: Evidence) -> dict[str, int]:
    """Return which attacks needed gradients and found none on any example they attacked, and on how many."""
    found, tried = {}, evidence.right
    for attack, table in evidence.tables.items():
        attacked = tried
        tried = evidence.withstood[attack] if evidence.manifest.worst_case else evidence.right  # by the next
        needed = attacked.any() and not is_black_box(evidence.parameters[attack])
        if needed and bool(table["zero_gradient"].to_numpy()[attacked].all()):
            found[attack] = int(attacked.sum())
    return found


def is_strongly_attacked(evidence: Evidence) -> bool:
    """Return whether a strong attack was run on a model, so that its robust accuracy is more than an upper bound.

    Standard AutoAttack within the threat model; or a search of a hundred steps and restarts or more together that found
    at most 1 % more than one of less effort, and no other attack did. One that met no gradient at all isn't.
    """
    blind = _met_no_gradient(evidence)
    if any(attack not in blind for attack in standard_attacks(evidence)):
        return True
    for weaker, strongest in effort_pairs(evidence):
        if strongest in blind:
            continue
        less, more = evidence.withstood[weaker], evidence.withstood[strongest]
        settled = (less & ~more).mean() <= STILL_GAINS and (more & ~evidence.held).mean() <= STILL_GAINS
        if settled and _effort(evidence.comparable[strongest]) >= 100:
            return True
    return False


def standard_attacks(evidence: Evidence) -> list[str]:
    """Return the names of attacks that are standard AutoAttack within the threat model."""
    return [
        a for a, given in evidence.parameters.items() if asked_standard(given) and is_within(given, evidence.threat)
    ]


def asked_standard(parameters: Mapping[str, Any]) -> bool:
    """Return whether this is AutoAttack as its standard version is, or stronger by more steps."""
    if attack_kind(parameters) != "AutoAttack" or parameters.get("attacks") != "standard":
        return False
    unchanged = parameters.get("target_order", "logits") == "logits" and parameters.get("n_target_classes") is None
    effort = {"n_iter": 100, "n_queries": 5000}
    return unchanged and all(_is_at_least(parameters.get(name, least), least) for name, least in effort.items())


def _is_at_least(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least
