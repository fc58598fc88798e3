"""Does FMN come as near as bisection of PGD, and what does it cost? On published networks.

    python evaluations/claims/minimum_norm.py --root data --checkpoints checkpoints --examples 60

For each network and norm, of the test images that the network has right: the smallest perturbation by FMN with 100
steps, and by bisection over the radius, each time with margin PGD of 100 steps, eight times (about 800 steps); and the
CPU time of FMN-100 beside that of one PGD-100 without early stop at the network's radius, medians of three rounds after
a first run of FMN. Minutes on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import parser_of_networks, write_networks
from lib.machine import seconds_of
from lib.published import ADVERSARIAL

import art_classwise as acw

NORMS = {"Linf": np.inf, "L2": 2, "L1": 1}
ROUNDS = 8
"""Of the bisection."""
TIMED = 3
"""Rounds in which FMN and PGD are timed."""

KEYS = ["network", "norm"]


def bisected(classifier: Any, x: np.ndarray, y: np.ndarray, norm: float, largest: float, steps: int) -> np.ndarray:
    """Return for each example the smallest radius at which PGD broke it, (n,); infinite where none did.

    Args:
        classifier: The network.
        x: Images (n, C, H, W) that it has right.
        y: Their labels (n,).
        norm: As ART writes it.
        largest: The largest radius to try.
        steps: Of PGD.
    """
    low, high, found = np.zeros(len(x)), np.full(len(x), largest), np.full(len(x), np.inf)
    for _ in range(ROUNDS):
        eps = (low + high) / 2
        options = {"max_iter": steps, "loss": "margin", "early_stop": True, "verbose": False}
        attack = acw.PGD(classifier, norm, eps.astype(np.float32).reshape(-1, 1, 1, 1), **options)
        x_adv = attack.generate(x, y)
        broken = classifier.predict(x_adv).argmax(1) != y
        sizes = np.linalg.norm((x_adv - x).reshape(len(x), -1).astype(np.float64), norm, axis=1)
        found = np.where(broken, np.minimum(found, sizes), found)  # a point may lie well within the ball
        low, high = np.where(broken, low, eps), np.where(broken, eps, high)
    return found


def measured(name: str, classifier: Any, data: acw.Dataset, threat: str, norm: str, steps: int) -> dict[str, Any]:
    """Return a row: medians of both, their ratios, and times."""
    x, y = np.asarray(data.x), data.y
    right = classifier.predict(x).argmax(1) == y
    x, y = x[right], y[right]
    fmn = acw.MinimumNormAttack(classifier, NORMS[norm], max_iter=steps, verbose=False)
    fmn.generate(x, y)  # once more than it is timed: it finds out, too, how the network is computed fastest
    distance = fmn.distance
    known = distance[np.isfinite(distance)]
    radius = 1.2 * float(known.max())
    eps = acw.ThreatModel.parse(threat).eps if norm == "Linf" else float(np.median(known))
    pgd = acw.PGD(classifier, NORMS[norm], eps, max_iter=steps, verbose=False)
    seconds, seconds_pgd = seconds_of(lambda: fmn.generate(x, y), lambda: pgd.generate(x, y), rounds=TIMED)
    other: list[np.ndarray] = []
    (seconds_bisected,) = seconds_of(lambda: other.append(bisected(classifier, x, y, NORMS[norm], radius, steps)))
    return {
        "network": name,
        "norm": norm,
        "n": len(x),
        "steps": steps,
        "fmn_median": float(np.median(distance)),
        "bisection_median": float(np.median(other[0])),
        "ratio_of_medians": float(np.median(distance) / np.median(other[0])),
        "farther_by_2_percent": float(np.mean(distance > 1.02 * other[0])),
        "not_found": int(np.isinf(distance).sum()),
        "fmn_seconds": seconds,
        "bisection_seconds": seconds_bisected,
        "times_pgd": seconds / seconds_pgd,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write ``minimum_norm.csv``."""
    parser = parser_of_networks(__doc__, __file__, 60, ADVERSARIAL)
    parser.add_argument("--steps", type=int, default=100, help="of FMN, and of each PGD")
    parser.add_argument("--norms", nargs="+", choices=tuple(NORMS), default=tuple(NORMS))
    arguments = parser.parse_args(argv)
    write_networks(
        __file__,
        arguments,
        KEYS,
        lambda *network: (measured(*network, norm, arguments.steps) for norm in arguments.norms),
    )


if __name__ == "__main__":
    main()
