"""What the checks look at: an audit's outcomes of one model, its probe, and what is known of the attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtrc

from art_classwise.audit.probes import Probe
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel

if TYPE_CHECKING:
    from art_classwise.audit._table import AuditTable

__all__ = [
    "LEVEL",
    "Evidence",
    "Observations",
    "is_black_box",
    "is_many_step",
    "is_one_step",
    "kind",
    "number",
    "of",
    "points",
    "steps_length",
]

Observations = Iterator[tuple[str, str, str]]
"""What a check yields: what was looked for, what was seen, what to try."""

LEVEL = 0.01
"""What a check's false alarms are held to."""

_BLACK_BOX = {
    *("TransferAttack", "SquareAttack", "HopSkipJump", "BoundaryAttack", "ZooAttack", "SimBA", "GeoDA"),
    *("SignOPTAttack", "PixelAttack", "ThresholdAttack", "SpatialTransformation"),
}


class Evidence:
    """What there is to look at of one model.

    Args:
        result: The audit.
        name: Of the model.
        tables: Its part of the outcomes under each attack.
    """

    def __init__(self, result: AuditTable, name: str, tables: dict[str, pd.DataFrame]) -> None:
        self.result, self.name, self.tables = result, name, tables
        first = next(iter(tables.values()))
        self.ids = first["example"].to_numpy()
        self.label = first["label"].to_numpy()
        self.clean = first["clean_prediction"].to_numpy()
        self.right: npt.NDArray[np.bool_] = self.label == self.clean
        self.withstood: dict[str, npt.NDArray[np.bool_]] = {a: t["withstood"].to_numpy() for a, t in tables.items()}

    @property
    def same_examples(self) -> bool:
        """Whether all attacks were tried on the same examples."""
        return all(np.array_equal(t["example"], self.ids) for t in self.tables.values())

    @cached_property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which examples withstood all attacks."""
        together: npt.NDArray[np.bool_] = np.logical_and.reduce(list(self.withstood.values()))
        return together

    @property
    def probe(self) -> Probe | None:
        """What was tried on the network itself, if it was."""
        return self.result.manifest.probes.get(self.name)

    @cached_property
    def attacks(self) -> dict[str, Mapping[str, Any]]:
        """Parameters of the attacks that may be compared: tried on all examples, within the audit's radius."""
        if self.result.manifest.worst_case or not self.same_examples:
            return {}
        told = {a: self.result.manifest.parameters(a) for a in self.tables}
        return {a: parameters for a, parameters in told.items() if _of_threat(parameters, self.result.threat)}

    def finds_more(self, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> bool:
        """Return whether an attack finds more than another, beyond chance, from who withstood each (n,)."""
        only_first, only_second = int(np.sum(~first & second)), int(np.sum(first & ~second))
        if only_first <= only_second:
            return False
        return bool(bdtrc(only_first - 1, only_first + only_second, 0.5) < LEVEL)  # so many of them, or more


def number(told: Mapping[str, Any], name: str) -> float | None:
    """Return a parameter, if it is a number above 0 that can be computed with: manifests may come from anyone."""
    value: Any = told.get(name)
    return float(value) if type(value) in (int, float) and 0 < value < 1e9 else None


def _of_threat(told: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether an attack searches within the audit's threat model; of black boxes, which may not say it, too."""
    within: Any = told.get("attack", told)  # a transfer's
    if not isinstance(within, Mapping):
        return False
    eps, norm = number(within, "eps"), within.get("norm")
    if eps is None or norm is None:
        return is_black_box(told)
    return abs(eps - threat.eps) <= 0.01 * threat.eps and _same_norm(norm, threat)


def _same_norm(norm: Any, threat: ThreatModel) -> bool:
    try:
        return ThreatModel.from_art(norm, 1.0).norm == threat.norm
    except InputError:
        return False


def kind(told: Mapping[str, Any]) -> str:
    """Return the name of an attack's class."""
    return str(told.get("class", "")).rpartition(".")[2]


def is_black_box(told: Mapping[str, Any]) -> bool:
    """Return whether an attack does without the network's gradients."""
    return kind(told) in _BLACK_BOX or (kind(told) == "AutoAttack" and told.get("attacks") in ("square", ["square"]))


def is_one_step(told: Mapping[str, Any]) -> bool:
    """Return whether this is a gradient attack of one step."""
    return kind(told) == "FastGradientMethod" or told.get("max_iter") == 1


def steps_length(told: Mapping[str, Any]) -> float | None:
    """Return how far the steps of a search lead, if it says it."""
    steps, length = number(told, "max_iter"), number(told, "eps_step")
    return None if steps is None or length is None else steps * length


def is_many_step(told: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Return whether this is a search of many steps that can leave the ball: of shorter ones little is to be asked."""
    reach = steps_length(told)
    several = (number(told, "max_iter") or 0) > 1 and not is_black_box(told)
    return several and reach is not None and reach >= 0.999 * threat.eps


def points(share: float) -> str:
    """Write a share in percent, or a difference of shares in points."""
    return f"{100 * share:.1f}"


def of(count: int, n: int) -> str:
    """Write a count of n."""
    return f"{count} of {n}"
