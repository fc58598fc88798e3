"""Does MALT's order put the right target first, and does it save time? On published networks.

    python evaluations/claims/target_order.py --root data --checkpoints checkpoints --examples 200

For each network: of the examples that a search towards each of nine targets breaks, the share that the search towards
the first target alone breaks, with targets in the order of the logits and in MALT's; and the CPU seconds that
AutoAttack takes for its verdicts with both, and its robust accuracies. Tens of minutes on two cores.
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
from lib.published import NETWORKS

import art_classwise as acw

ORDERS = ("logits", "malt")

KEYS = ["network"]


def measured(name: str, classifier: Any, data: acw.Dataset, threat: str, *, autoattack: bool) -> dict[str, Any]:
    """Return a row: what the first targets break of what nine do, and AutoAttack's seconds and robust accuracies."""
    x, y = np.asarray(data.x), data.y
    eps = acw.ThreatModel.parse(threat).eps
    right = classifier.predict(x).argmax(1) == y

    def broken(attack: Any) -> np.ndarray:
        return right & (classifier.predict(attack.generate(x, y)).argmax(1) != y)

    def search(targets: int, order: str) -> Any:
        options = {"loss": "margin", "max_iter": 40, "num_random_init": 0, "verbose": False}
        return acw.ClassWiseAttack(classifier, eps=eps, targets=targets, order=order, **options)

    row: dict[str, Any] = {"network": name, "threat": threat, "n": len(x), "right": int(right.sum())}
    every = broken(search(9, "logits"))
    row["broken_by_nine"] = int(every.sum())
    for order in ORDERS:
        first = broken(search(1, order))
        row[f"first_{order}"] = float((first & every).sum() / max(1, every.sum()))
    for order in ORDERS if autoattack else ():
        attack = acw.AutoAttack(classifier, eps=eps, target_order=order, verbose=False)  # type: ignore[arg-type]
        found: list[np.ndarray] = []
        (row[f"seconds_{order}"],) = seconds_of(lambda attack=attack, found=found: found.append(broken(attack)))
        row[f"robust_{order}"] = float((right & ~found[0]).mean())
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write ``target_order.csv``."""
    parser = parser_of_networks(__doc__, __file__, 200)
    parser.add_argument("--autoattack", nargs="*", default=tuple(NETWORKS), help="networks on which AutoAttack runs")
    arguments = parser.parse_args(argv)
    write_networks(
        __file__, arguments, KEYS, lambda name, *rest: [measured(name, *rest, autoattack=name in arguments.autoattack)]
    )


if __name__ == "__main__":
    main()
