"""Claim 5 of Tian et al.: the same classes are weak under all attacks and after all defences.

    python evaluations/claims/consistency.py --root data --checkpoints checkpoints
    python evaluations/claims/consistency.py --size full --root data --datasets cifar10

Kendall's tau of the classes' robust accuracies, between attacks on one network and between networks under all attacks.
Both are tried on the same images, which order equal classes alike; so the two orders are taken from disjoint halves of
the images (art_classwise.metrics.rank_agreement), and noise pulls tau towards 0. Uses networks of three training
methods and several seeds, and those published for CIFAR-10, all at the smaller of their radii. The control is the order
of clean accuracies after natural training. Intervals of the mean over all pairs are over seeds and test images (of
which a tenth is left out at a time); of published networks over test images. CIFAR-100 is also counted by its 20
superclasses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, over_both, parser, timed, told_seeds, write
from lib.published import at_hand
from lib.setups import QUICK_ATTACKS, SIZES

import art_classwise as acw

METHODS = ("standard", "trades", "mart")
ATTACKS = {
    "tiny": ["fgsm", "pgd-20"],
    "quick": QUICK_ATTACKS,
    "medium": QUICK_ATTACKS,
    "full": (*QUICK_ATTACKS, "square"),
}
PUBLISHED = ("cifar10-cnn-a", "cifar10-resnet4b")
N_PUBLISHED = {"tiny": 60, "quick": 2000, "medium": 2000, "full": None}
PARTS = 10  # of the test images, to leave one out at a time
ACROSS = {
    "attacks": "5. The same classes are weak under all attacks",
    "networks": "5. The same classes are weak after all defences",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Attack, compare, write the tables."""
    arguments = parser(__file__, __doc__, sizes=SIZES, methods=METHODS).parse_args(argv)
    tables: list[pd.DataFrame] = []
    claims: list[Claim] = []
    figures: dict[str, plt.Figure] = {}
    for dataset, trainings in all_trainings(arguments):
        with timed(dataset):
            found: list[pd.DataFrame] = []
            results: list[acw.AuditResult] = []
            for seed in range(arguments.seeds):
                result = trainings.audit(arguments.methods, seed, ATTACKS[arguments.size])
                results.append(result)
                found.append(agreement(result).assign(dataset=trainings.test.name, seed=seed))
                natural = trainings.audit(["natural"], seed, ["pgd-20"])
                tables.append(beside_clean(result, natural).assign(dataset=trainings.test.name, seed=seed))
                if seed == 0:
                    figures[dataset] = draw(f"{trainings.test.name}, seed 0", accuracies(result))
            tables += found
            n = f"n = {len(trainings.test):,} test images, {told_seeds(arguments.seeds)}"
            for told, view in trainings.views.items():
                claims += claims_of(told, [counted(result, view) for result in results], n)
    if not arguments.stand_in:
        size = N_PUBLISHED[arguments.size]
        there = {
            name: (c, data) for name, c, data, _ in at_hand(arguments.checkpoints, arguments.root, size, PUBLISHED)
        }
        if len(there) == len(PUBLISHED):
            data = next(iter(there.values()))[1]
            audit = acw.ClassWiseAudit("Linf:2/255", ATTACKS[arguments.size], checks=False, verbose=False)
            result = audit.evaluate({name: c for name, (c, _) in there.items()}, data)
            found_ = agreement(result)
            tables.append(found_.assign(dataset=data.name))
            figures["published"] = draw("published, CIFAR-10, Linf 2/255", accuracies(result))
            pair = found_[found_["across"] == "networks"].iloc[0]
            claims.append(
                Claim(
                    ACROSS["networks"],
                    f"{' and '.join(PUBLISHED)}, Linf:2/255",
                    "Kendall's tau between networks",
                    *pair[["tau", "low", "high"]],
                    n=f"n = {len(data):,} test images, interval over them",
                    least=0.5,
                    unit="",
                )
            )
    write(__file__, arguments, {"": pd.concat(tables)}, claims, figures)


def claims_of(where: str, results: Sequence[acw.AuditResult], n: str) -> list[Claim]:
    """Return what was seen on one data set, by the results of its seeds."""
    by_seed = pd.concat([agreement(r).assign(seed=seed) for seed, r in enumerate(results)])
    means, variance = by_seed.groupby(["across", "seed"])["tau"].mean(), example_variance(results)
    return [
        Claim(
            said,
            where,
            f"mean Kendall's tau between {across}",
            *over_both(means[across], variance[across], PARTS - 1, within=(-1, 1)),
            n=n,
            least=0.5,
            unit="",
        )
        for across, said in ACROSS.items()
        if across in means
    ]


def counted(result: acw.AuditResult, view: np.ndarray) -> acw.AuditResult:
    """Return a result whose examples count for what ``view`` (C,) says of their class."""
    outcomes = result.outcomes
    return replace(result, outcomes=outcomes.assign(label=view[outcomes["label"]]))


def agreement(result: acw.AuditResult, repeats: int = 100) -> pd.DataFrame:
    """Return a row per pair of attacks on each network, and per pair of networks under all attacks.

    Columns ``across`` (``"attacks"`` or ``"networks"``), ``network``, ``first``, ``second`` and those of
    :func:`art_classwise.metrics.rank_agreement`.
    """
    parts = [
        result.rank_agreement(model=model, repeats=repeats).reset_index().assign(across="attacks", network=model)
        for model in result.models
    ]
    if len(result.models) > 1:
        parts.append(result.rank_agreement(repeats=repeats).reset_index().assign(across="networks"))
    return pd.concat(parts)


def example_variance(results: Sequence[acw.AuditResult], parts: int = PARTS) -> pd.Series[float]:
    """Return the variance over test images of the mean tau over seeds and pairs, of attacks and of networks.

    A jackknife: the images are parted at random, and one part is left out at a time, the same images for all seeds.
    """
    examples = np.random.default_rng(0).permutation(results[0].outcomes["example"].unique())
    means = []
    for part in np.array_split(examples, parts):
        rest = [replace(r, outcomes=r.outcomes[~r.outcomes["example"].isin(part)]) for r in results]
        means.append(pd.concat([agreement(r, repeats=20) for r in rest]).groupby("across")["tau"].mean())
    found = pd.DataFrame(means)
    return (parts - 1) ** 2 / parts * found.var(ddof=1)


def beside_clean(result: acw.AuditResult, natural: acw.AuditResult) -> pd.DataFrame:
    """Return how far the robust order of each network agrees with the clean order after natural training."""
    clean = natural.class_table("natural", "pgd-20")["clean"]
    rows: list[dict[str, Any]] = []
    for model in result.models:
        tau = acw.metrics.correlations(clean, result.class_table(model)["robust"]).loc["kendall"]
        rows.append({"across": "control: clean, natural training", "first": "natural", "second": model})
        rows[-1] |= {"tau": tau["value"], "p": tau["p"], "n_classes": tau["n"]}
    return pd.DataFrame(rows)


def accuracies(result: acw.AuditResult) -> pd.DataFrame:
    """Return robust accuracies, a row per class and a column per network and attack."""
    return pd.DataFrame(
        {f"{m}, {a}": result.class_table(m, a)["robust"] for m in result.models for a in result.attacks}
    )


def draw(title: str, table: pd.DataFrame) -> plt.Figure:
    """Draw Kendall's tau between all pairs of network and attack."""
    figure, ax = plt.subplots(figsize=(8, 7), layout="constrained")
    tau = pd.DataFrame(1.0, index=table.columns, columns=table.columns)
    for a, b in combinations(table.columns, 2):
        tau.loc[a, b] = tau.loc[b, a] = acw.metrics.correlations(table[a], table[b]).loc["kendall", "value"]
    picture = ax.imshow(tau.to_numpy(), vmin=-1, vmax=1, cmap="RdBu")
    for i, j in np.ndindex(tau.shape):
        value = tau.iat[i, j]
        shade = "white" if abs(value) > 0.6 else "black"
        ax.text(j, i, "" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", color=shade, fontsize=7)
    ax.set_xticks(range(len(tau)), tau.columns, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(tau)), tau.columns, fontsize=8)
    ax.set_title(f"{title}: Kendall's tau of class robust accuracies", loc="left", fontsize=10, weight="bold")
    figure.colorbar(picture, ax=ax, shrink=0.6, label="Kendall's tau")
    return figure


if __name__ == "__main__":
    main()
