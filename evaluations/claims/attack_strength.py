"""Claim 3 of Tian et al.: a stronger attack mostly breaks the classes that were already weak.

    python evaluations/claims/attack_strength.py --root data --checkpoints checkpoints
    python evaluations/claims/attack_strength.py --size full --root data --datasets cifar10

Measures the accuracy that each class loses from FGSM to PGD-20 and to all attacks of a ladder, its correlation with the
class's weakness, and the share of all losses that occurs in the weakest third of the classes. Uses published networks
and networks trained here, under PGD-20 on cross-entropy, margin and temperatures; at full size the whole standard
ladder, with AutoAttack. A class's weakness is measured on one half of its examples and its loss on the other, over many
splits, since using the same examples for both would correlate noise. CIFAR-100 is also counted by its 20 superclasses.
Intervals are over seeds; for published networks
over resampled test examples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, estimated, panels, parser, timed, told_seeds, write
from lib.published import ADVERSARIAL, at_hand
from lib.setups import QUICK_ATTACKS, SIZES

import art_classwise as acw

METHODS = ("standard", "trades", "mart")
ALL = "all attacks"
ATTACKS = {
    "tiny": ["fgsm", "pgd-20"],
    "quick": QUICK_ATTACKS,
    "medium": QUICK_ATTACKS,
    "full": "standard",
}
LADDER = {
    "tiny": ["fgsm", "pgd-20"],
    "quick": ["fgsm", "pgd-20", "margin-20", *(f"tpgd{t}-20" for t in (2, 5, 10, 50))],
    "medium": QUICK_ATTACKS,
    "full": "standard",
}
"""Of published networks."""
N_PUBLISHED = {"tiny": 60, "quick": 1000, "medium": 1000, "full": None}
WEAK = "fgsm"
SPLITS = 100


def main(argv: Sequence[str] | None = None) -> None:
    """Attack, write the tables."""
    arguments = parser(__file__, __doc__, sizes=SIZES, methods=METHODS).parse_args(argv)
    tables: list[pd.DataFrame] = []
    rows: list[dict[str, Any]] = []
    claims: list[Claim] = []
    drawn: dict[str, list[tuple[str, pd.DataFrame]]] = {}

    def look(network: str, told: dict[str, Any], result: acw.AuditResult) -> None:
        for strong in (*result.attacks[1:], ALL):
            table = result.attack_strength(network, WEAK, strong)
            named = {**told, "network": network, "weak attack": WEAK, "strong attack": strong}
            tables.append(table.reset_index().assign(**named))
            rows.append({**named, **falls(*verdicts(result, network, WEAK, strong))})

    for dataset, trainings in all_trainings(arguments):
        with timed(dataset):
            results = {}
            for seed in range(arguments.seeds):
                results[seed] = trainings.audit(arguments.methods, seed, ATTACKS[arguments.size])
                for method in arguments.methods:
                    look(method, {"dataset": trainings.test.name, "seed": seed}, results[seed])
            falling = results[0].attack_strength(arguments.methods[0], WEAK, ALL)
            drawn.setdefault(dataset, []).append((f"{trainings.test.name}, {arguments.methods[0]}", falling))
            n = f"n = {len(trainings.test):,} test images, {told_seeds(arguments.seeds)}"
            for (told, view), method in product(trainings.views.items(), arguments.methods):
                seen = [verdicts(result, method, WEAK, ALL) for result in results.values()]
                claims.append(claim(f"{told}, {method}", [(view[y], *withstood) for y, *withstood in seen], n))
    if not arguments.stand_in:
        size = N_PUBLISHED[arguments.size]
        for name, classifier, data, threat in at_hand(arguments.checkpoints, arguments.root, size, ADVERSARIAL):
            with timed(name):
                audit = acw.ClassWiseAudit(threat, LADDER[arguments.size], checks=False, verbose=False)
                result = audit.evaluate({name: classifier}, data)
                look(name, {"dataset": data.name}, result)
                drawn.setdefault(data.name, []).append((name, result.attack_strength(name, WEAK, ALL)))
                n = f"n = {len(data):,} test images, interval over them"
                claims.append(claim(f"{name}, {threat}", [verdicts(result, name, WEAK, ALL)], n))
    figures = {dataset: draw(of) for dataset, of in drawn.items()}
    write(__file__, arguments, {"": pd.DataFrame(rows), "classes": pd.concat(tables)}, claims, figures)


def claim(where: str, seen: Sequence[tuple[np.ndarray, ...]], n: str) -> Claim:
    """Return what was seen of one network: the weakest third's part of all losses, beyond their number."""

    def excess(of: tuple[np.ndarray, ...], rows: np.ndarray) -> float:
        found = falls(*(values[rows] for values in of))
        return 100 * (found["share of the weakest third"] - found["third"])

    return Claim(
        "3. A stronger attack falls mostly on the weakest classes",
        where,
        "share of the losses, from FGSM to all attacks, of the weakest third of the classes minus their share of the "
        "classes, held out",
        *estimated([partial(excess, of) for of in seen], [of[0] for of in seen], within=(-100, 100)),
        n=n,
        least=5,
    )


def verdicts(result: acw.AuditResult, model: str, weak: str, strong: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels and whether each example withstood the weak attack, and the strong one: three arrays (n,)."""
    first, second = (result.rows(model, attack) for attack in (weak, strong))
    return first["label"].to_numpy(), first["withstood"].to_numpy(), second["withstood"].to_numpy()


def falls(y: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> dict[str, float]:
    """Return where the losses fall: the weakest classes told by one half of the examples, the losses by the other.

    Args:
        y: Labels (n,).
        weak: Whether each example withstood the weak attack (n,).
        strong: Whether it withstood the strong one (n,).

    Returns:
        ``share of the weakest third`` of the sum of all classes' losses, NaN without losses; ``third``, that part of
        the classes; ``correlation``, Spearman's, of a class's accuracy under the weak attack with its loss.
    """
    present, y = np.unique(y, return_inverse=True)
    kinds = np.where(weak, np.where(strong, 0, 1), np.where(strong, 2, 3))  # which attacks it withstood
    counts = np.zeros((len(present), 4), dtype=np.int64)
    np.add.at(counts, (y, kinds), 1)
    rng, n = np.random.default_rng(0), counts.sum(1)
    one = np.stack([rng.multivariate_hypergeometric(c, c.sum() // 2, SPLITS) for c in counts], axis=1)
    other = counts - one  # (splits, classes, kinds)
    with np.errstate(invalid="ignore"):
        baseline = (one[..., 0] + one[..., 1]) / (n // 2)
        drop = np.nan_to_num((other[..., 1] - other[..., 2]) / (n - n // 2))
    k = math.ceil(len(present) / 3)
    weakest = np.argsort(baseline, axis=1, kind="stable")[:, :k]  # classes without examples come last
    of_all = drop.sum()
    orders, losses = rankdata(baseline, axis=1), rankdata(drop, axis=1)
    varied = (np.ptp(orders, axis=1) > 0) & (np.ptp(losses, axis=1) > 0)
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(orders[varied], losses[varied], strict=True)]
    return {
        "share of the weakest third": np.take_along_axis(drop, weakest, 1).sum() / of_all if of_all > 0 else math.nan,
        "third": k / len(present),
        "correlation": float(np.mean(found)) if found else math.nan,
    }


def draw(tables: Sequence[tuple[str, pd.DataFrame]]) -> plt.Figure:
    """Draw the losses against the accuracies under the weak attack, a picture per network."""
    figure, axes = panels(len(tables))
    for ax, (title, table) in zip(axes, tables, strict=True):
        acw.figures.attack_strength(table, ax, title=title)
    return figure


if __name__ == "__main__":
    main()
