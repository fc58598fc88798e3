"""What checks look at: an audit's outcomes of one model, its probe, and the parameters of the attacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtrc, betaincinv

from art_classwise.attacks.autoattack import MEMBERS, members_of, needs_gradients
from art_classwise.audit.probes import Probe
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel

if TYPE_CHECKING:
    from art_classwise.audit.outcomes import AuditTable

__all__ = ["Evidence", "attack_kind", "detectable_share", "exceeds", "is_black_box", "is_one_step", "of", "points"]

_MANY_STEPS = 10
_BLACK_BOX = {
    *("TransferAttack", "SquareAttack", "HopSkipJump", "BoundaryAttack", "ZooAttack", "SimBA", "GeoDA"),
    *("SignOPTAttack", "PixelAttack", "ThresholdAttack", "SpatialTransformation"),
}

Flags = npt.NDArray[np.bool_]


class Evidence:
    """What there is to look at of one model.

    Args:
        result: The audit.
        name: Of the model.
        tables: Its part of the outcomes under each adversary; where there is none, under each corruption.
        level: What the chance of a false alarm of one statistical check is held to.
    """

    def __init__(self, result: AuditTable, name: str, tables: dict[str, pd.DataFrame], level: float) -> None:
        self.result, self.name, self.tables, self.level = result, name, tables, level
        self.threat, self.manifest = result.threat, result.manifest
        first = next(iter(tables.values()))
        self.ids = first["example"].to_numpy()
        self.label = first["label"].to_numpy()
        self.clean = first["clean_prediction"].to_numpy()
        self.right: Flags = self.label == self.clean
        self.withstood: dict[str, Flags] = {a: t["withstood"].to_numpy() for a, t in tables.items()}
        self.adversaries = [attack for attack in tables if attack in result.adversaries]
        self.parameters = {attack: self.manifest.parameters(attack) for attack in tables}

    @property
    def same_examples(self) -> bool:
        """Whether all attacks were tried on the same examples."""
        return all(np.array_equal(t["example"], self.ids) for t in self.tables.values())

    @cached_property
    def held(self) -> Flags:
        """Which examples withstood all attacks."""
        together: Flags = np.logical_and.reduce(list(self.withstood.values()))
        return together

    @property
    def probe(self) -> Probe | None:
        """What was tried on the network itself, if it was."""
        return self.manifest.probes.get(self.name)

    @cached_property
    def comparable(self) -> dict[str, Mapping[str, Any]]:
        """Parameters of the attacks that may be compared: tried on all examples, within the audit's radius."""
        if self.manifest.worst_case or not self.same_examples:
            return {}
        return {a: given for a, given in self.parameters.items() if is_within(given, self.threat)}

    def finds_more(self, first: Flags, second: Flags, comparisons: int = 1) -> bool:
        """Return whether an attack finds more than another, beyond chance, from who withstood each (n,).

        By McNemar's exact test, one-sided, at the check's level, shared by its ``comparisons``.
        """
        only_first, only_second = int(np.sum(~first & second)), int(np.sum(first & ~second))
        return gains(only_first, only_second, self.level / comparisons)


def gains(gained: int, lost: int, level: float) -> bool:
    """Return whether more were gained than lost, beyond chance: McNemar's exact test, one-sided."""
    return gained > lost and bool(bdtrc(gained - 1, gained + lost, 0.5) < level)


def exceeds(k: int, n: int, share: float, level: float) -> bool:
    """Return whether k of n, three at least, show that more than a share is affected: exact binomial test."""
    return k >= _LEAST and bool(bdtrc(k - 1, n, share) < level)


_LEAST = 3  # examples: fewer are no pattern
_CONFIDENCE = 0.975


def detectable_share(n: int, share: float | None = None, level: float = 1.0) -> float:
    """Return the smallest share that shows in n examples with a probability of 97.5 %.

    It is the exact upper bound (Clopper and Pearson) where one fewer was seen than are needed: 1 - 0.025^(1 / n) where
    a single one shows; 1 where n are too few.

    Args:
        n: Number of examples, 1 or more.
        share: What :func:`exceeds` allows; without it, a single example shows.
        level: Of :func:`exceeds`.
    """
    if share is None:
        return float(1 - (1 - _CONFIDENCE) ** (1 / n))
    needed = next((k for k in range(_LEAST, n + 1) if exceeds(k, n, share, level)), None)
    return 1.0 if needed is None else float(betaincinv(needed, n - needed + 1, _CONFIDENCE))


def number(parameters: Mapping[str, Any], name: str) -> float | None:
    """Return a parameter, if it is a number above 0 that can be computed with: manifests may come from anyone."""
    value: Any = parameters.get(name)
    return float(value) if type(value) in (int, float) and 0 < value < 1e9 else None


def search_parameters(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of what searches: of a transfer, of the attack within."""
    within = parameters.get("attack", parameters)
    return within if isinstance(within, Mapping) else {}


def is_within(parameters: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether an attack searches within the audit's threat model; of black boxes, which may not say it, too."""
    within = search_parameters(parameters)
    eps, norm = number(within, "eps"), within.get("norm")
    if eps is None or norm is None:
        return is_black_box(parameters) and bool(within)
    return abs(eps - threat.eps) <= 0.01 * threat.eps and is_same_norm(norm, threat)


def is_same_norm(norm: Any, threat: ThreatModel) -> bool:
    """Return whether ART's way to write a norm is that of the threat model."""
    try:
        return ThreatModel.from_art(norm, 1.0).norm == threat.norm
    except InputError:
        return False


def attack_kind(parameters: Mapping[str, Any]) -> str:
    """Return the name of an attack's class."""
    return str(parameters.get("class", "")).rpartition(".")[2]


def is_black_box(parameters: Mapping[str, Any]) -> bool:
    """Return whether an attack does without the network's gradients."""
    name = attack_kind(parameters)
    return name in _BLACK_BOX or (name == "AutoAttack" and parameters.get("attacks") in ("square", ["square"]))


def is_one_step(parameters: Mapping[str, Any]) -> bool:
    """Return whether this is a gradient attack of one step."""
    return attack_kind(parameters) == "FastGradientMethod" or parameters.get("max_iter") == 1


def steps_length(parameters: Mapping[str, Any]) -> float | None:
    """Return how far the steps of a search lead, if its parameters say it."""
    steps, length = number(parameters, "max_iter"), number(parameters, "eps_step")
    return None if steps is None or length is None else steps * length


def can_leave_ball(parameters: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether this is a gradient search of several steps, long enough to reach any place in the ball."""
    reach = steps_length(parameters)
    several = (number(parameters, "max_iter") or 0) > 1 and not is_black_box(parameters)
    return several and reach is not None and reach >= 0.999 * threat.eps


def asked_members(parameters: Mapping[str, Any], n_classes: int) -> tuple[str, ...]:
    """Return the members of AutoAttack that run on a model of so many classes; none of another attack."""
    members: Any = parameters.get("attacks")
    if attack_kind(parameters) != "AutoAttack" or not isinstance(members, (str, list)):
        return ()
    return tuple(m for m in members_of(members, n_classes) if m in MEMBERS)


def is_many_step(parameters: Mapping[str, Any], threat: ThreatModel, n_classes: int) -> bool:
    """Return whether this is a gradient search of ten steps or more, as far as is known within the threat model."""
    if is_black_box(parameters):
        return False
    eps, norm = number(parameters, "eps"), parameters.get("norm")
    if norm is not None and not is_same_norm(norm, threat):  # one without eps looks for the smallest perturbation in it
        return False
    if eps is not None and norm is not None and eps < 0.99 * threat.eps:
        return False
    by_members = any(map(needs_gradients, asked_members(parameters, n_classes)))
    return by_members or (number(parameters, "max_iter") or 0) >= _MANY_STEPS


def points(share: float) -> str:
    """Write a share in percent, or a difference of shares in points."""
    return f"{100 * share:.1f}"


def of(count: int, n: int) -> str:
    """Write a count of n."""
    return f"{count} of {n}"
