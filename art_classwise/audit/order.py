"""The order of a ladder in worst case: what breaks most for its cost is asked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise.audit import probes
from art_classwise.audit.outcomes import joined
from art_classwise.audit.runner import ShardRunner
from art_classwise.datasets import Dataset
from art_classwise.threat import ThreatModel

__all__ = ["fastest_first", "greedy", "held_first"]

_SHARE = 20  # at most one example of so many is tried
_MOST = 64
_FEWEST = 8  # with less nothing is known


def fastest_first(
    classifier: Any,
    attacks: Mapping[str, Any],
    data: Dataset,
    threat: ThreatModel,
    *,
    seed: int,
    batch_size: int | None,
) -> list[str]:
    """Return the names of attacks, first those that break most examples for their cost, as a few examples tell.

    At most 64 examples are tried, and at most one of twenty: where that is less than eight, the order stays. Cost is
    counted in passes, which take the same time for every attack on a network, so that it is the same whoever counts.

    Args:
        classifier: The model.
        attacks: Attacks on it by name.
        data: The examples.
        threat: What attacks may do.
        seed: Of the attacks.
        batch_size: Examples computed at once, if not the usual number.
    """
    if len(data) < _SHARE * _FEWEST:
        return [*attacks]
    few = data.take(probes.spread_over(len(data), min(_MOST, len(data) // _SHARE)))
    runner = ShardRunner(few, threat, shard_size=len(few), seed=seed, batch_size=batch_size)
    clean = runner.clean(classifier, 0)
    right = np.flatnonzero(clean["prediction"] == clean["label"])
    if len(right) == 0:
        return [*attacks]
    broken, costs = [], []
    for name, attack in attacks.items():
        frame = runner.attacked(classifier, name, attack, 0, right)
        broken.append(~joined(clean, frame)["withstood"].to_numpy()[right])
        costs.append(float((frame["forwards"] + 2 * frame["backwards"]).mean()))  # a pass back takes about two forward
    names = [*attacks]
    return [names[i] for i in greedy(np.array(broken), costs)]


def greedy(broken: npt.NDArray[np.bool_], costs: Sequence[float]) -> list[int]:
    """Return attacks by number: next is always the one that breaks most of what is left for its cost.

    Args:
        broken: Shape (attacks, examples): which an attack breaks.
        costs: What an example costs under each attack, above 0.
    """
    left = np.ones(broken.shape[1], dtype=bool)
    rest, order = list(range(len(costs))), list[int]()
    while rest:
        best = max(rest, key=lambda i: (broken[i] & left).sum() / max(costs[i], 1e-9))  # of equal ones the first
        rest.remove(best)
        order.append(best)
        left &= ~broken[best]
    return order


def held_first(names: Sequence[str], held: Sequence[str]) -> list[str]:
    """Return names of attacks in the order that an audit has, those that it hasn't last."""
    return [name for name in held if name in names] + [name for name in names if name not in held]
