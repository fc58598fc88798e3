"""What an audit knows of the smallest perturbation that changes each example's class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.outcomes import DISTANCE, AuditTable
from art_classwise.errors import InputError

__all__ = ["Distances", "distances_of", "measuring_attacks"]


class Distances(NamedTuple):
    """The smallest perturbations of one model's examples.

    Attributes:
        label: (n,) int64.
        distance: (n,) float64, of the smallest perturbation found: 0 where the model is wrong without one, infinite
            where there is none.
        smallest: (n,) float64, below which nothing was looked for: above 0 for examples that only attacks broke which
            don't look for the smallest.
        searched: The largest perturbation that was looked for.
    """

    label: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    smallest: npt.NDArray[np.float64]
    searched: float


def measuring_attacks(table: AuditTable, model: str) -> list[str]:
    """Return the attacks that measured distances of a model's examples."""
    if DISTANCE not in table.outcomes:
        return []
    rows = table.outcomes[table.outcomes["model"] == model]
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
    distance, smallest = np.full(n, np.inf), np.zeros(n)
    withstood, measured = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for one in table.attacks if attack == WORST_CASE else [attack]:
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
    smallest = np.where(right & ~measured, distance, 0.0)
    limits = [_limit(table.manifest.parameters(one)) for one in measuring]
    return Distances(first["label"].to_numpy(dtype=np.int64), distance, smallest, max([eps, *limits]))


def _limit(parameters: Mapping[str, Any]) -> float:
    """Return the largest perturbation that an attack looks for, infinity for any."""
    given = parameters.get("eps")
    return float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else math.inf
