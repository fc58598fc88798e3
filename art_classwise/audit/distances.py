"""What an audit knows of the smallest perturbation that changes each example's class."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.outcomes import DISTANCE, AuditTable, kept
from art_classwise.errors import InputError
from art_classwise.threat import NORMS, ThreatModel

__all__ = ["Distances", "distances_of", "measuring_attacks"]


class Distances(NamedTuple):
    """The smallest perturbations of one model's examples.

    Attributes:
        label: (n,) int64.
        distance: (n,) float64, of the smallest perturbation found: 0 where the model is wrong without one, infinite
            where there is none.
        measured: (n,) bool, whether an attack looked for the smallest; others that broke them looked at the audit's
            radius only.
        measured_to: The largest perturbation that such an attack looked for.
        searched: The largest that any looked for.
        own: The audit's radius, at which its verdicts are known, however far an attack looked.
    """

    label: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    measured: npt.NDArray[np.bool_]
    measured_to: float
    searched: float
    own: float

    def searched_at(self, radius: float) -> float:
        """Return the largest perturbation that was looked for, as far as it matters at a radius."""
        return math.inf if radius == self.own else self.searched

    def smallest_at(self, radius: float) -> npt.NDArray[np.float64]:
        """Return below which perturbations (n,) nothing was looked for, as far as it matters at a radius."""
        unmeasured = ~self.measured
        if radius > self.measured_to:  # others broke these, within the audit's radius
            unmeasured = unmeasured | (np.isfinite(self.distance) & (self.distance > self.measured_to))
        return np.where(unmeasured, self.distance, 0.0)


def measuring_attacks(table: AuditTable, model: str) -> list[str]:
    """Return the attacks that measured distances of a model's examples."""
    outcomes = kept(table)
    if DISTANCE not in outcomes:
        return []
    rows = outcomes[outcomes["model"] == model]
    known = rows[rows[DISTANCE].notna()]["attack"].unique()
    return [attack for attack in table.attacks if attack in known]


def distances_of(table: AuditTable, model: str | None, attack: str) -> Distances:
    """Return the smallest perturbations that an attack, or all of them, found for a model's examples.

    An example's verdict at the audit's own radius is kept, whatever rounding does to its distance.

    Raises:
        InputError: The audit has no such model or attack, or the attack, or every one, looked for perturbations of the
            audit's radius only.
    """
    first = table.rows(model, attack)
    name = str(first["model"].iloc[0])
    measuring = measuring_attacks(table, name)
    if not measuring or attack not in (*measuring, WORST_CASE):
        which = "No attack of the audit" if attack == WORST_CASE else f"The attack {attack!r} doesn't look"
        instead = f" Take {' or '.join(measuring)}." if measuring else ""
        looks = " looked" if attack == WORST_CASE else ""
        raise InputError(
            f"{which}{looks} for the smallest perturbations, so outcomes are known at {table.threat} only.{instead}",
            python="Audit with `attacks=[..., 'fmn']`, or at several radii: audit_over_radii().",
        )
    eps, n = table.threat.eps, len(first)
    distance = np.full(n, np.inf)
    withstood, measured = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    tried = table.adversaries if attack == WORST_CASE else (attack,)
    for one in tried:
        rows = table.rows(name, one)
        if not np.array_equal(rows["example"], first["example"]):
            raise InputError(f"Attacks on {name!r} were tried on different examples: name one, {measuring[0]!r}.")
        given = rows[DISTANCE].to_numpy(dtype=np.float64)
        known = ~np.isnan(given)
        broken = ~rows["withstood"].to_numpy()
        distance = np.where(known, np.minimum(distance, given), distance)
        size = rows["perturbation"].to_numpy(dtype=np.float64)
        distance = np.where(broken & ~known, np.minimum(distance, size), distance)
        measured, withstood = measured | known, withstood & ~broken
    right = (first["label"] == first["clean_prediction"]).to_numpy()
    distance = np.where(withstood, np.maximum(distance, np.nextafter(eps, np.inf)), np.minimum(distance, eps))
    distance = np.where(right, distance, 0.0)
    measured_to = max(_limit(table, one) for one in measuring if one in tried)
    searched = max([measured_to, *(eps for one in tried if one not in measuring)])
    label = first["label"].to_numpy(dtype=np.int64)
    return Distances(label, distance, measured | ~right, measured_to, searched, eps)


def _limit(table: AuditTable, attack: str) -> float:
    """Return the largest perturbation, in the audit's norm, that an attack surely looked for; infinity for any."""
    parameters = table.manifest.parameters(attack)
    given = parameters.get("eps")
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        return math.inf
    try:
        norm = ThreatModel.from_art(parameters.get("norm", table.threat.art_norm), 1.0).norm
    except InputError:
        return 0.0
    # A smaller ball than the audit's of that radius, such as L2 where the audit is of Linf, leaves out what it allows.
    limit = float(given) if NORMS.index(norm) <= NORMS.index(table.threat.norm) else 0.0
    return max(limit, table.threat.eps) if math.isclose(limit, table.threat.eps, rel_tol=1e-6) else limit
