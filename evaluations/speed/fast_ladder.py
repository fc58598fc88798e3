"""What does the ladder "fast" miss of what AutoAttack breaks, and what does it cost? On published networks.

    python evaluations/speed/fast_ladder.py --root data --checkpoints checkpoints --examples 1000

For each network: the test images that it has right and that AutoAttack's standard version breaks at the radius of its
training, how many of them the ladder misses, what it breaks beside them, and the processor time of both. Each attack of
the ladder meets what those before it left, as in an audit with --worst-case. What was measured is kept in --store: a
run that was stopped goes on. With --audits, AutoAttack's verdicts come from finished audits of published_networks.py,
where there is one of the same images: without times, of which the table then has the ladder's alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import parser_of_networks, write_networks

import art_classwise as acw
from art_classwise._core.files import written_aside
from art_classwise.attacks import ladder
from art_classwise.audit.provenance import parameters

KEYS = ["network", "n"]
ATTACKS = ("autoattack", "fast")
"""What is taken for the truth, and what is held against it."""
DEFAULT = (
    *("cifar10-cnn-a", "cifar10-resnet4b", "cifar10-cnn-a-adv2", "cifar10-convsmall-pgd", "cifar10-cnn-wong8"),
    *("mnist-cnn-pgd", "mnist-cnn-wong01", "mnist-smallcnn-trades", "cifar10-resnet20-at8", "cifar100-resnet20-at8"),
)
"""Networks that were trained to be robust."""


def broken_by(attacks: str, classifier: Any, data: acw.Dataset, threat: str, kept: Path) -> list[dict[str, Any]]:
    """Return what each attack broke, one after the other, each on what those before it left.

    Args:
        attacks: A ladder or an attack, by name.
        classifier: The network.
        data: Images.
        threat: Norm and radius.
        kept: File of what was measured; it is measured again if attacks have other parameters.

    Returns:
        For each attack its ``attack``, name; ``parameters``; ``attacked``, how many images; ``broken``, which ones; and
        ``seconds`` of processor time, all threads.
    """
    x, y = np.asarray(data.x), data.y
    made = {name: make(classifier) for name, make in ladder(attacks, threat).items()}
    about = [[name, json.loads(json.dumps(parameters(attack), default=str))] for name, attack in made.items()]
    if kept.is_file():
        stored: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
        if [[one["attack"], one["parameters"]] for one in stored] == about:
            return stored
    left = np.flatnonzero(classifier.predict(x).argmax(1) == y)
    rows = []
    for (name, attack), (_, given) in zip(made.items(), about, strict=True):
        begun = time.process_time()
        x_adv = attack.generate(x[left], y[left]) if len(left) else x[left]
        seconds = time.process_time() - begun
        broken = classifier.predict(x_adv).argmax(1) != y[left] if len(left) else np.zeros(0, dtype=bool)
        row = {"attack": name, "parameters": given, "attacked": len(left), "broken": left[broken].tolist()}
        rows.append({**row, "seconds": seconds})
        left = left[~broken]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(kept) as aside:
        aside.write_text(json.dumps(rows), encoding="utf-8")
    return rows


def audited(name: str, data: acw.Dataset, threat: str, audits: Path) -> list[dict[str, Any]] | None:
    """Return what AutoAttack broke in a finished audit of these images, as :func:`broken_by`; None if there is none."""
    for folder in sorted(audits.glob(f"**/{name}-*-{len(data)}")):
        with suppress(acw.InputError):
            result = acw.read_audit(folder)
            same = result.models == (name,) and result.manifest.threat == acw.ThreatModel.parse(threat)
            if not same or ATTACKS[0] not in result.attacks:
                continue
            rows = result.rows(name, ATTACKS[0])
            if rows["example"].tolist() != data.ids.tolist() or rows["label"].tolist() != data.y.tolist():
                continue
            right = (rows["clean_prediction"] == rows["label"]).to_numpy()
            broken = right & (rows["prediction"] != rows["label"]).to_numpy()
            found = np.flatnonzero(broken).tolist()
            return [{"attack": ATTACKS[0], "attacked": int(right.sum()), "broken": found, "seconds": np.nan}]
    return None


def measured(
    name: str, classifier: Any, data: acw.Dataset, threat: str, store: Path, audits: Path | None = None
) -> dict[str, Any]:
    """Return a row: what both break, and their processor times."""
    known = None if audits is None else audited(name, data, threat, audits)
    reference, fast = (
        known
        if known is not None and attacks == ATTACKS[0]
        else broken_by(attacks, classifier, data, threat, store / f"{name}-{len(data)}-{attacks}.json")
        for attacks in ATTACKS
    )
    truth, found = ({i for one in rows for i in one["broken"]} for rows in (reference, fast))
    seconds, fast_seconds = (sum(one["seconds"] for one in rows) for rows in (reference, fast))
    right = reference[0]["attacked"]
    return {
        "network": name,
        "threat": threat,
        "n": len(data),
        "right": right,
        "broken_reference": len(truth),
        "missed": len(truth - found),
        "only_fast": len(found - truth),
        "robust_reference": (right - len(truth)) / len(data),
        "robust_fast": (right - len(found)) / len(data),
        "seconds_reference": seconds,
        "seconds_fast": fast_seconds,
        "share_of_time": fast_seconds / seconds,
        "by_attack": "; ".join(f"{one['attack']}: {len(one['broken'])}" for one in fast),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write ``fast_ladder.csv``."""
    parser = parser_of_networks(__doc__, __file__, 100, DEFAULT)
    parser.add_argument(
        "--store", type=Path, default=Path("runs/evaluations/fast_ladder"), help="folder of finished work"
    )
    parser.add_argument("--audits", type=Path, help="folder of published_networks.py's audits")
    arguments = parser.parse_args(argv)
    write_networks(__file__, arguments, KEYS, lambda *network: [measured(*network, arguments.store, arguments.audits)])


if __name__ == "__main__":
    main()
