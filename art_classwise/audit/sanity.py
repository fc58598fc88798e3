"""What looks wrong with an audit: the checks that a careful reviewer makes, on outcomes and probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtrc, chdtrc

from art_classwise._display import Shown
from art_classwise.attacks.ladder import usual_threat
from art_classwise.audit._outcomes import parts
from art_classwise.audit._probes import Probe
from art_classwise.errors import InputError
from art_classwise.metrics.intervals import wilson
from art_classwise.threat import ThreatModel

if TYPE_CHECKING:
    from art_classwise.audit.result import AuditResult

__all__ = ["DIFFERS", "Finding", "Findings", "findings"]

DIFFERS = "differs from what is published"
"""The check of published numbers."""

_FEW = 50  # examples: the interval of one class is then up to 27 points wide
_LEVEL = 0.01
_ZERO_SHARE = 0.05
_MISSED = 0.05  # of what is attacked in vain, what may be chance
_WEAKER = 0.1  # of what withstood, what a stronger attack breaks of healthy networks, too
_STILL_GAINS = 0.01
_AGAIN = 1e-3  # of the logits' spread: the same computation twice differs by less, on a GPU, too
_ALONE = 2e-2  # in batches of another size kernels differ; where a network computes in bfloat16, by nearly 1e-2
_LEAST = 3  # examples: fewer are no pattern

# Radii in use beside those of usual_threat(), which are Linf.
_USUAL = {
    "L2": {"cifar10": 0.5, "cifar100": 0.5, "svhn": 0.5, "stl10": 0.5, "mnist": 2.0, "imagenet": 3.0},
    "L1": {"cifar10": 12.0, "cifar100": 12.0, "svhn": 12.0, "stl10": 12.0, "mnist": 10.0},
}
_SMALLEST, _LARGEST = 1 / 8, 2.5

_BLACK_BOX = {
    *("TransferAttack", "SquareAttack", "HopSkipJump", "BoundaryAttack", "ZooAttack", "SimBA", "GeoDA"),
    *("SignOPTAttack", "PixelAttack", "ThresholdAttack", "SpatialTransformation"),
}


@dataclass(frozen=True, repr=False)
class Finding(Shown):
    """Something that looks wrong.

    Attributes:
        model: The model; None where it concerns the audit as a whole.
        check: What was looked for, e.g. ``"masked gradients"``.
        saw: What was seen, a sentence.
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


def findings(result: AuditResult) -> Findings:
    """Return what looks wrong with an audit; nothing, if it and its models look healthy.

    Looked for are

    - masked gradients (Athalye et al. 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv 1902.06705): gradients that
      are zero; examples that withstand where any image can become grey; black-box attacks that find more than
      white-box ones, one step more than many, few steps more than many;
    - a weak attack: more steps or restarts still find many more, its steps end within the ball, or a reference attack
      (margin PGD, 40 steps, on 32 examples) breaks what withstood all attacks;
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
        seen = _Seen(result, name, tables)
        for check in _CHECKS:
            found += [Finding(name, what, saw, advice) for what, saw, advice in check(seen)]
    return Findings(found)


_Said = Iterator[tuple[str, str, str]]


def _of_model(result: AuditResult, name: str) -> pd.DataFrame:
    return result.outcomes[result.outcomes["model"] == name]


class _Seen:
    """What there is to look at of one model."""

    def __init__(self, result: AuditResult, name: str, tables: dict[str, pd.DataFrame]) -> None:
        self.result, self.name, self.tables = result, name, tables
        first = next(iter(tables.values()))
        self.ids = first["example"].to_numpy()
        self.label = first["label"].to_numpy()
        self.clean = first["clean_prediction"].to_numpy()
        self.right: npt.NDArray[np.bool_] = self.label == self.clean
        self.withstood: dict[str, npt.NDArray[np.bool_]] = {a: t["withstood"].to_numpy() for a, t in tables.items()}

    @property
    def same_examples(self) -> bool:
        return all(np.array_equal(t["example"], self.ids) for t in self.tables.values())

    @cached_property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which examples withstood all attacks."""
        together: npt.NDArray[np.bool_] = np.logical_and.reduce(list(self.withstood.values()))
        return together

    @cached_property
    def probe(self) -> Probe | None:
        plain = self.result.info.get("probes", {}).get(self.name)
        return None if plain is None else Probe.from_plain(plain)  # None, too, if another release made it

    @cached_property
    def attacks(self) -> dict[str, Mapping[str, Any]]:
        """Parameters of the attacks that may be compared: tried on all examples, within the audit's radius."""
        if self.result.info.get("worst_case") or not self.same_examples:
            return {}
        told = self.result.info.get("attacks", {})
        return {a: told[a] for a in self.tables if a in told and _of_threat(told[a], self.result.threat)}

    def finds_more(self, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> bool:
        """Return whether an attack finds more than another, beyond chance, from who withstood each (n,)."""
        only_first, only_second = int(np.sum(~first & second)), int(np.sum(first & ~second))
        if only_first <= only_second:
            return False
        return bool(bdtrc(only_first - 1, only_first + only_second, 0.5) < _LEVEL)  # so many of them, or more


def _number(told: Mapping[str, Any], name: str) -> float | None:
    """Return a parameter, if it is a number above 0 that can be computed with: manifests may come from anyone."""
    value: Any = told.get(name)
    return float(value) if type(value) in (int, float) and 0 < value < 1e9 else None


def _of_threat(told: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether an attack searches within the audit's threat model; of black boxes, which may not say it, too."""
    within: Any = told.get("attack", told)  # a transfer's
    if not isinstance(within, Mapping):
        return False
    eps, norm = _number(within, "eps"), within.get("norm")
    if eps is None or norm is None:
        return _is_black_box(told)
    return abs(eps - threat.eps) <= 0.01 * threat.eps and _same_norm(norm, threat)


def _same_norm(norm: Any, threat: ThreatModel) -> bool:
    try:
        return ThreatModel.from_art(norm, 1.0).norm == threat.norm
    except InputError:
        return False


def _kind(told: Mapping[str, Any]) -> str:
    return str(told.get("class", "")).rpartition(".")[2]


def _is_black_box(told: Mapping[str, Any]) -> bool:
    return _kind(told) in _BLACK_BOX or (_kind(told) == "AutoAttack" and told.get("attacks") in ("square", ["square"]))


def _is_one_step(told: Mapping[str, Any]) -> bool:
    return _kind(told) == "FastGradientMethod" or told.get("max_iter") == 1


def _reach(told: Mapping[str, Any]) -> float | None:
    """Return how far the steps of a search lead, if it says it."""
    steps, length = _number(told, "max_iter"), _number(told, "eps_step")
    return None if steps is None or length is None else steps * length


def _is_many_step(told: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether this is a search of many steps that can leave the ball: of shorter ones little is to be asked."""
    reach = _reach(told)
    several = (_number(told, "max_iter") or 0) > 1 and not _is_black_box(told)
    return several and reach is not None and reach >= 0.999 * threat.eps


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _of(count: int, n: int) -> str:
    return f"{count} of {n}"


_MASKED, _WEAK = "masked gradients", "weak attack"
_TRY_OTHERWISE = (
    "Attack it otherwise: without gradients (square), by transfer from another network, or through a differentiable "
    "stand-in for what masks them."
)


def _zero_gradients(seen: _Seen) -> _Said:
    n = int(seen.right.sum())
    shares = {a: float(t["zero_gradient"].to_numpy()[seen.right].mean()) for a, t in seen.tables.items() if n}
    worst = max(shares, key=lambda a: shares[a], default=None)
    if worst is not None and shares[worst] >= _ZERO_SHARE:
        yield (
            _MASKED,
            f"{worst} met gradients that were zero, or not finite, on {_points(shares[worst])} % of the {n} examples "
            "that are classified correctly.",
            "Look for a softmax, a rounding or a saturated activation before the loss, and return logits. "
            + _TRY_OTHERWISE,
        )


def _far(seen: _Seen) -> _Said:
    if seen.probe is None:
        return
    n = len(seen.probe.attacked)
    for k, said in (
        (seen.probe.zero_gradient, f"met gradients that were zero in {seen.probe.reference} steps of margin PGD."),
        (
            seen.probe.far_withstood,
            f"withstood margin PGD of radius {seen.probe.far_eps:g}, within which any image can become a grey one.",
        ),
    ):
        if k >= _LEAST and float(wilson(k, n)[0]) > _MISSED:
            yield _MASKED, f"{_of(k, n)} examples {said}", _TRY_OTHERWISE


def _black_box(seen: _Seen) -> _Said:
    white = [seen.withstood[a] for a, told in seen.attacks.items() if not _is_black_box(told)]
    if not white:
        return
    under_white = np.logical_and.reduce(white)
    for attack, told in seen.attacks.items():
        if _is_black_box(told) and seen.finds_more(seen.withstood[attack], under_white):
            yield (
                _MASKED,
                f"{attack}, without this network's gradients, leaves {_points(seen.withstood[attack].mean())} % "
                f"robust accuracy; all attacks with them {_points(under_white.mean())} %.",
                _TRY_OTHERWISE,
            )


def _one_step(seen: _Seen) -> _Said:
    many = {a: seen.withstood[a] for a, told in seen.attacks.items() if _is_many_step(told, seen.result.threat)}
    if not many:
        return
    best = min(many, key=lambda a: many[a].mean())
    for attack, told in seen.attacks.items():
        if _is_one_step(told) and seen.finds_more(seen.withstood[attack], many[best]):
            yield (
                _MASKED,
                f"One step ({attack}) leaves {_points(seen.withstood[attack].mean())} % robust accuracy, many steps "
                f"({best}) {_points(many[best].mean())} %.",
                "Many steps get lost on a rugged loss: try shorter or longer steps, more restarts and square.",
            )


def _effort(told: Mapping[str, Any]) -> float:
    return (_number(told, "max_iter") or 1) * (_number(told, "num_random_init") or 1)


def _families(seen: _Seen) -> Iterator[tuple[str, str]]:
    """Give, of attacks that differ in steps and restarts alone, the one of most effort and that before it."""
    families: dict[str, list[str]] = {}
    for attack, told in seen.attacks.items():
        if _is_many_step(told, seen.result.threat):
            same = {k: v for k, v in told.items() if k not in ("max_iter", "num_random_init", "eps_step")}
            families.setdefault(repr(sorted(same.items(), key=str)), []).append(attack)
    for names in families.values():
        efforts = {attack: _effort(seen.attacks[attack]) for attack in names}
        strongest = max(efforts, key=efforts.__getitem__)
        weaker = [attack for attack in names if efforts[attack] < efforts[strongest]]
        if weaker:
            yield max(weaker, key=efforts.__getitem__), strongest


def _more_effort(seen: _Seen) -> _Said:
    for weaker, strongest in _families(seen):
        less, more = seen.withstood[weaker], seen.withstood[strongest]
        if seen.finds_more(less, more):
            yield (
                _MASKED,
                f"{strongest} leaves {_points(more.mean())} % robust accuracy, {weaker}, of less effort, "
                f"{_points(less.mean())} %.",
                "More steps should never find less: look for randomness, and try shorter steps.",
            )
            continue
        gained, n = int(np.sum(less & ~more)), len(more)
        rests_on_it = more.mean() - seen.held.mean() < _STILL_GAINS
        if rests_on_it and float(wilson(gained, n)[0]) > _STILL_GAINS and gained > 0.02 * n:
            yield (
                _WEAK,
                f"From {weaker} to {strongest} robust accuracy falls by {_points(gained / n)} points more.",
                "It would fall further: take more steps and restarts, or autoattack.",
            )


def _reference(seen: _Seen) -> _Said:
    if seen.probe is None:
        return
    held = {*seen.ids[seen.held].tolist()}
    tried, broken = held & {*seen.probe.attacked}, held & {*seen.probe.broken}
    if len(broken) >= _LEAST and float(wilson(len(broken), len(tried))[0]) > _WEAKER:
        yield (
            _WEAK,
            f"Margin PGD of {seen.probe.reference} steps broke {_of(len(broken), len(tried))} examples that withstood "
            "all attacks of the audit.",
            "Add stronger attacks: margin-20, pgd-100x5, autoattack.",
        )


def _short_steps(seen: _Seen) -> _Said:
    for attack, told in seen.attacks.items():
        reach = _reach(told)
        if reach is not None and reach < 0.999 * seen.result.threat.eps and not _is_black_box(told):
            yield (
                _WEAK,
                f"The steps of {attack} lead {reach:.3g} far, and the radius is {seen.result.threat.eps:.3g}.",
                "Take longer steps, or more of them: a quarter of the radius is usual.",
            )


def _random(seen: _Seen) -> _Said:
    probe = seen.probe
    if probe is not None and _is_random(probe):
        yield (
            "random network",
            f"Asked again about the same images, {_of(probe.random_flips, probe.n)} predictions changed, and logits by "
            f"up to {probe.random_change:.2g} of their spread.",
            "Attack the expectation over its randomness (EOT), and fix its seed for the verdict: an attack that meets "
            "other numbers at each step looks weak.",
        )


def _is_random(probe: Probe) -> bool:
    return probe.random_flips > 0 or probe.random_change > _AGAIN


def _batch(seen: _Seen) -> _Said:
    probe = seen.probe
    if probe is None:
        return
    where = f" In training mode, or without running statistics: {', '.join(probe.training)}." if probe.training else ""
    advice = "Call eval(), and let batch normalisation use its running statistics."
    if probe.batch_error:
        yield "batch-dependent network", f"On one image alone it fails: {probe.batch_error}.{where}", advice
    elif not _is_random(probe) and (probe.batch_flips > 0 or probe.batch_change > _ALONE):
        saw = (
            f"Asked about images one by one, not together, {probe.batch_flips} of at most 16 predictions changed, and "
            f"logits by up to {probe.batch_change:.2g} of their spread.{where}"
        )
        yield "batch-dependent network", saw, advice
    elif probe.training:
        yield "network in training mode", where.strip(), advice


def _normalisation(seen: _Seen) -> _Said:
    n_classes = len(seen.result.classes)
    labels, predicted = (np.bincount(v, minlength=n_classes) / len(v) for v in (seen.label, seen.clean))
    probe = seen.probe
    if probe is not None:
        ways = {"standardised channel by channel": probe.standardised_gain, "multiplied by 255": probe.scaled_gain}
        way = max(ways, key=lambda w: ways[w])
        then = probe.right + ways[way]
        if ways[way] >= max(5, 0.2 * probe.n) and _beats(then / probe.n, float(labels.max())):
            yield (
                "wrong normalisation",
                f"With images {way}, {_of(then, probe.n)} are classified correctly; as they are, {probe.right}.",
                "Images come in [0, 1]: put the network's own normalisation before its first layer.",
            )
            return
    # As Cohen's kappa has it: what the same predictions would get right if they were dealt out at random.
    chance = float(labels @ predicted)
    accuracy = float(seen.right.mean())
    if len(seen.label) >= 20 and np.count_nonzero(labels) > 1 and not _beats(accuracy, chance):
        yield (
            "accuracy near chance",
            f"Clean accuracy is {_points(accuracy)} %, and the same predictions dealt out at random would get "
            f"{_points(chance)} %.",
            "Are the weights loaded, images in [0, 1] what it expects, and the classes numbered as in the data?",
        )


def _beats(accuracy: float, chance: float) -> bool:
    return accuracy > chance + 0.1 * (1 - chance)


def _labels(seen: _Seen) -> _Said:
    classes = seen.result.classes
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (seen.label, seen.clean), 1)
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
            f"Most examples of {_of(len(cycles), len(classes))} classes are taken, without attack, for one another's: "
            f"{pairs}{more}.",
            "The network numbers its classes otherwise than the data: bring labels and logits into one order.",
        )


def _returns(goes_to: Mapping[int, int], start: int) -> bool:
    at = goes_to.get(start)
    for _ in goes_to:
        if at is None or at == start:
            break
        at = goes_to.get(at)
    return at == start and goes_to[start] != start


def _published(seen: _Seen) -> _Said:
    everyone = seen.result.info.get("published", {})
    told = everyone.get(seen.name)
    if not told or not _is_balanced(seen.label, len(seen.result.classes)):
        return
    advice = "Are these the weights that were published, and the same test images?"
    n = len(seen.label)
    confidence = 1 - _LEVEL / (2 * len(everyone))  # so that a whole leaderboard has a false one in a hundred walks
    low, high = (float(end) for end in wilson(int(seen.right.sum()), n, confidence))
    if told["clean"] is not None and not low <= told["clean"] <= high:
        yield (
            DIFFERS,
            f"Clean accuracy is {_points(seen.right.mean())} % ({_points(low)} to {_points(high)}, n = {n}), "
            f"but {told['source']} is published with {_points(told['clean'])} %.",
            advice,
        )
    threat = seen.result.threat
    if told["robust"] is None or told["norm"] != threat.norm or abs(told["eps"] - threat.eps) > 0.01 * threat.eps:
        return
    low, high = (float(end) for end in wilson(int(seen.held.sum()), n, confidence))
    attacks = seen.result.info.get("attacks", {}).values()
    as_strong = any(_kind(attack) == "AutoAttack" and attack.get("attacks") == "standard" for attack in attacks)
    if told["robust"] > high or (as_strong and told["robust"] < low):
        yield (
            DIFFERS,
            f"Robust accuracy under all attacks is {_points(seen.held.mean())} % ({_points(low)} to {_points(high)}, "
            f"n = {n}), but {told['source']} is published with {_points(told['robust'])} % under AutoAttack.",
            advice,
        )


def _is_balanced(labels: npt.NDArray[np.int64], n_classes: int) -> bool:
    """Return whether all classes may be as frequent, as in the test sets that numbers are published of."""
    counts, expected = np.bincount(labels, minlength=n_classes), len(labels) / n_classes
    return bool(chdtrc(n_classes - 1, ((counts - expected) ** 2 / expected).sum()) > 1e-3)


def _few_examples(result: AuditResult) -> Iterator[Finding]:
    rows = _of_model(result, result.models[0])
    n = np.bincount(rows.drop_duplicates("example")["label"].to_numpy(), minlength=len(result.classes))
    few = (n > 0) & (n < _FEW)
    if few.any():
        low, high = wilson(n[few].min() / 2, n[few].min())
        absent = f"; {_of(int((n == 0).sum()), len(n))} have none" if (n == 0).any() else ""
        yield Finding(
            None,
            "few examples",
            f"{_of(int(few.sum()), len(n))} classes have fewer than {_FEW} examples: an interval is up to "
            f"{_points(float(high - low))} points wide{absent}.",
            "Take more examples, or claim nothing of one class: group classes, result.by_group(...).",
        )


def _radius(result: AuditResult) -> Iterator[Finding]:
    dataset, (norm, eps) = str(result.info.get("dataset")), (result.threat.norm, result.threat.eps)
    usual = _USUAL.get(norm, {}).get(dataset)
    if norm == "Linf":
        with suppress(InputError):  # none is in use
            usual = usual_threat(dataset).eps
    if usual is not None and not _SMALLEST * usual <= eps <= _LARGEST * usual:
        yield Finding(
            None,
            "unusual radius",
            f"The radius {result.threat} is {eps / usual:.2g} times the one in use for {dataset}.",
            "Radii are in the units of images in [0, 1]: 8 of 255 levels is Linf:8/255.",
        )


_CHECKS = (
    *(_zero_gradients, _far, _black_box, _one_step, _more_effort, _short_steps, _reference),
    *(_random, _batch, _normalisation, _labels, _published),
)
