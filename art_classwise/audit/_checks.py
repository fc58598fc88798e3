"""The checks of an audit: what looks wrong with its attacks, and with its networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from art_classwise.attacks.autoattack import MEMBERS, members_left_out, members_of, needs_gradients
from art_classwise.audit._evidence import (
    LEVEL,
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
from art_classwise.audit.probes import Probe
from art_classwise.metrics.intervals import wilson

__all__ = ["ATTACK_CHECKS", "DIFFERS", "NETWORK_CHECKS"]

_ZERO_SHARE = 0.05
_MISSED = 0.05  # of what is attacked in vain, what may be chance
_WEAKER = 0.1  # of what withstood, what a stronger attack breaks of healthy networks, too
_STILL_GAINS = 0.01
_LEAST = 3  # examples: fewer are no pattern

_MASKED, _WEAK = "masked gradients", "weak attack"
_TRY_OTHERWISE = (
    "Use another attack: without gradients (square), by transfer from another network, or through a differentiable "
    "replacement of whatever masks them."
)


def _zero_gradients(evidence: Evidence) -> Observations:
    n = int(evidence.right.sum())
    shares = {a: float(t["zero_gradient"].to_numpy()[evidence.right].mean()) for a, t in evidence.tables.items() if n}
    worst = max(shares, key=lambda a: shares[a], default=None)
    if worst is not None and shares[worst] >= _ZERO_SHARE:
        yield (
            _MASKED,
            f"{worst} met zero or non-finite gradients on {points(shares[worst])} % of the {n} correctly classified "
            "examples.",
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
            f"had zero gradients in {evidence.probe.reference} steps of margin PGD.",
        ),
        (
            evidence.probe.far_withstood,
            f"withstood margin PGD at radius {evidence.probe.far_eps:g}, which can turn any image grey.",
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
                f"{attack}, which doesn't use this network's gradients, leaves "
                f"{points(evidence.withstood[attack].mean())} % robust accuracy; all attacks that use them "
                f"{points(under_white.mean())} %.",
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
                "A rugged loss can mislead many steps: try shorter or longer steps, more restarts and square.",
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
                f"{strongest} leaves {points(more.mean())} % robust accuracy, the weaker {weaker} "
                f"{points(less.mean())} %.",
                "More steps should never find less: look for randomness, and try shorter steps.",
            )
            continue
        gained, n = int(np.sum(less & ~more)), len(more)
        rests_on_it = more.mean() - evidence.held.mean() < _STILL_GAINS
        if rests_on_it and float(wilson(gained, n)[0]) > _STILL_GAINS and gained > 0.02 * n:
            yield (
                _WEAK,
                f"From {weaker} to {strongest} robust accuracy still falls by {points(gained / n)} points.",
                "More effort would lower it further: use more steps and restarts, or autoattack.",
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
                f"The steps of {attack} cover at most {reach:.3g}, but the radius is {evidence.result.threat.eps:.3g}.",
                "Use longer or more steps: a quarter of the radius is a usual step size.",
            )


def _left_out(evidence: Evidence) -> Observations:
    n_classes, worst_case = len(evidence.result.classes), evidence.result.manifest.worst_case
    tried = evidence.right
    for attack, table in evidence.tables.items():
        attacked = tried
        tried = evidence.withstood[attack] if worst_case else evidence.right  # by the next
        told = evidence.result.manifest.parameters(attack)
        if kind(told) != "AutoAttack":
            continue
        asked: Any = told.get("attacks") if isinstance(told.get("attacks"), (str, list)) else ()
        for member, why in members_left_out(asked, n_classes).items():
            yield (
                _WEAK,
                f"{attack} ran without {member}, which {why}.",
                "Add another attack in its place: margin-20, or PGD with restarts.",
            )
        led = [m for m in MEMBERS if m in members_of(asked, n_classes) and needs_gradients(m)]
        if led and attacked.any() and bool(table["zero_gradient"].to_numpy()[attacked].all()):
            names = " and ".join(filter(None, (", ".join(led[:-1]), led[-1])))
            yield (
                _WEAK,
                f"In {attack}, {names} found no gradient on any of the {int(attacked.sum())} examples: if no gradient "
                "passes through the network, they don't run.",
                _TRY_OTHERWISE,
            )


ATTACK_CHECKS = (_zero_gradients, _far, _black_box, _one_step, _more_effort, _short_steps, _reference, _left_out)
"""Each yields what it saw of a model."""


DIFFERS = "differs from what is published"
"""The check of published numbers."""

_AGAIN = 1e-3  # of the logits' spread: the same computation twice differs by less, on a GPU, too
_ALONE = 2e-2  # in batches of another size kernels differ; where a network computes in bfloat16, by nearly 1e-2


def _random(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and _is_random(probe):
        yield (
            "random network",
            f"For the same images, {of(probe.random_flips, probe.n)} predictions changed when repeated, and logits by "
            f"up to {probe.random_change:.2g} of their spread.",
            "Attack the expectation over its randomness (EOT), and fix its seed for the verdict: an attack is weak if "
            "random numbers differ at each step.",
        )


def _is_random(probe: Probe) -> bool:
    return probe.random_flips > 0 or probe.random_change > _AGAIN


def _batch(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is None:
        return
    where = f" In training mode, or without running statistics: {', '.join(probe.training)}." if probe.training else ""
    advice = "Call eval(), and let batch normalisation use its running statistics."
    if probe.batch_error:
        yield "batch-dependent network", f"It fails on a single image: {probe.batch_error}.{where}", advice
    elif not _is_random(probe) and (probe.batch_flips > 0 or probe.batch_change > _ALONE):
        saw = (
            f"For single images instead of a batch, {probe.batch_flips} of at most 16 predictions changed, and "
            f"logits by up to {probe.batch_change:.2g} of their spread.{where}"
        )
        yield "batch-dependent network", saw, advice
    elif probe.training:
        yield "network in training mode", where.strip(), advice


def _normalisation(evidence: Evidence) -> Observations:
    n_classes = len(evidence.result.classes)
    labels, predicted = (np.bincount(v, minlength=n_classes) / len(v) for v in (evidence.label, evidence.clean))
    probe = evidence.probe
    if probe is not None:
        ways = {"standardised channel by channel": probe.standardised_gain, "multiplied by 255": probe.scaled_gain}
        way = max(ways, key=lambda w: ways[w])
        then = probe.right + ways[way]
        if ways[way] >= max(5, 0.2 * probe.n) and _beats(then / probe.n, float(labels.max())):
            yield (
                "wrong normalisation",
                f"With images {way}, {of(then, probe.n)} are classified correctly; unchanged, {probe.right}.",
                "Images are in [0, 1]: put the network's normalisation before its first layer.",
            )
            return
    # As Cohen's kappa has it: what the same predictions would get right if they were dealt out at random.
    chance = float(labels @ predicted)
    accuracy = float(evidence.right.mean())
    if len(evidence.label) >= 20 and np.count_nonzero(labels) > 1 and not _beats(accuracy, chance):
        yield (
            "accuracy near chance",
            f"Clean accuracy is {points(accuracy)} %, and the same predictions in random order would have "
            f"{points(chance)} %.",
            "Are the weights loaded, does it expect images in [0, 1], and are its classes numbered as in the data?",
        )


def _beats(accuracy: float, chance: float) -> bool:
    return accuracy > chance + 0.1 * (1 - chance)


def _labels(evidence: Evidence) -> Observations:
    classes = evidence.result.classes
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (evidence.label, evidence.clean), 1)
    n = counts.sum(1)
    low, _ = wilson(counts, np.broadcast_to(n[:, None], counts.shape))
    goes_to = {int(i): int(counts[i].argmax()) for i in np.flatnonzero(n) if np.nanmax(low[i]) > 0.5}
    moved = {i for i, j in goes_to.items() if i != j and j in goes_to}
    cycles = {i for i in moved if _returns(goes_to, i)}
    if cycles:
        pairs = ", ".join(f"{classes[i]} as {classes[goes_to[i]]}" for i in sorted(cycles)[:3])
        more = f" and {len(cycles) - 3} more" if len(cycles) > 3 else ""
        yield (
            "misaligned labels",
            f"Without attack, most examples of {of(len(cycles), len(classes))} classes are predicted as one another's: "
            f"{pairs}{more}.",
            "The network and the data number the classes differently: bring labels and logits into the same order.",
        )


def _returns(goes_to: Mapping[int, int], start: int) -> bool:
    at = goes_to.get(start)
    for _ in goes_to:
        if at is None or at == start:
            break
        at = goes_to.get(at)
    return at == start and goes_to[start] != start


def _published(evidence: Evidence) -> Observations:
    everyone = evidence.result.manifest.published
    told = everyone.get(evidence.name)
    if told is None or not _is_balanced(evidence.label, len(evidence.result.classes)):
        return
    advice = "Are these the published weights and the same test images?"
    n = len(evidence.label)
    confidence = 1 - LEVEL / (2 * len(everyone))  # so that a whole leaderboard has a false one in a hundred walks
    low, high = (float(end) for end in wilson(int(evidence.right.sum()), n, confidence))
    if told.clean is not None and not low <= told.clean <= high:
        yield (
            DIFFERS,
            f"Clean accuracy is {points(evidence.right.mean())} % ({points(low)} to {points(high)}, n = {n}), "
            f"but {told.source} is published with {points(told.clean)} %.",
            advice,
        )
    threat = evidence.result.threat
    if told.robust is None or told.norm != threat.norm or abs((told.eps or 0) - threat.eps) > 0.01 * threat.eps:
        return
    low, high = (float(end) for end in wilson(int(evidence.held.sum()), n, confidence))
    attacks = map(evidence.result.manifest.parameters, evidence.result.attacks)
    as_strong = any(kind(attack) == "AutoAttack" and attack.get("attacks") == "standard" for attack in attacks)
    if told.robust > high or (as_strong and told.robust < low):
        yield (
            DIFFERS,
            f"Robust accuracy under all attacks is {points(evidence.held.mean())} % ({points(low)} to {points(high)}, "
            f"n = {n}), but {told.source} is published with {points(told.robust)} % under AutoAttack.",
            advice,
        )


def _is_balanced(labels: npt.NDArray[np.int64], n_classes: int) -> bool:
    """Return whether all classes may be as frequent, as in the test sets that numbers are published of."""
    counts, expected = np.bincount(labels, minlength=n_classes), len(labels) / n_classes
    return bool(chdtrc(n_classes - 1, ((counts - expected) ** 2 / expected).sum()) > 1e-3)


NETWORK_CHECKS = (_random, _batch, _normalisation, _labels, _published)
"""Each yields what it saw of a model."""
