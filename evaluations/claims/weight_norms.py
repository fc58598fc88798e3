"""Claim 2 of Tian et al.: a class's robustness is correlated with the norm of its weights in the last layer.

    python evaluations/claims/weight_norms.py --root data --checkpoints checkpoints
    python evaluations/claims/weight_norms.py --size full --root data --datasets cifar10

Norms of the rows of the last linear layer against robust accuracies (PGD-20) by class, after standard adversarial
training, TRADES and MART, and, as the control, against clean accuracies after natural training; with several seeds, and
on published networks. Then the repair at inference: the rows divided by their norms to the power tau (normalize_head).
Intervals are over seeds; of the correlation of a single network over its classes (Fisher's z).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, over_seeds, panels, parser, timed, told_seeds, write
from lib.published import ADVERSARIAL, at_hand
from lib.setups import SIZES, Trainings

import art_classwise as acw

ATTACK = "pgd-20"
METHODS = ("standard", "trades", "mart")
TAUS = (0.5, 1.0)
N_PUBLISHED = {"tiny": 40, "quick": 2000, "medium": 2000, "full": None}
CLAIM = "2. Classes with larger weight norms are more robust"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, write the tables."""
    arguments = parser(__file__, __doc__, sizes=SIZES, methods=METHODS).parse_args(argv)
    classes: list[pd.DataFrame] = []
    rows: list[dict[str, Any]] = []
    repaired: list[dict[str, Any]] = []
    claims: list[Claim] = []
    drawn: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    methods = ("natural", *arguments.methods)
    for dataset, trainings in all_trainings(arguments):
        with timed(dataset):
            for seed in range(arguments.seeds):
                told = {"dataset": trainings.test.name, "seed": seed}
                result = trainings.audit(methods, seed, [ATTACK])
                for method in methods:
                    table = by_class(trainings, result, method, seed)
                    if (method, seed) == (arguments.methods[0], 0):
                        drawn.setdefault(dataset, []).append((f"{trainings.test.name}, {method}, seed 0", table))
                    classes.append(table.reset_index().assign(**told, network=method))
                    rows += [{**told, "network": method, **row} for row in correlated(table)]
                if "standard" in methods:
                    repaired += [{**told, **row} for row in repair(trainings, seed)]
            claims += claims_of(trainings, pd.DataFrame(rows), pd.DataFrame(repaired), arguments.seeds)
    if not arguments.stand_in:
        for name, classifier, data, threat in at_hand(
            arguments.checkpoints, arguments.root, N_PUBLISHED[arguments.size], ADVERSARIAL
        ):
            audit = acw.ClassWiseAudit(threat, [ATTACK], checks=False, verbose=False)
            result = audit.evaluate({name: classifier}, data)
            table = result.class_table(name, ATTACK).assign(norm=acw.metrics.head_weight_norms(classifier))
            table["accuracy"] = table["robust"]
            told = {"dataset": data.name, "network": name}
            classes.append(table.reset_index().assign(**told))
            rows += [{**told, **row} for row in correlated(table)]
            found = acw.metrics.correlations(table["norm"], table["robust"]).loc["spearman"]
            drawn.setdefault(data.name, []).append((name, table))
            claims.append(
                Claim(
                    CLAIM,
                    f"{name}, {threat}",
                    "Spearman's correlation of norm and robust accuracy",
                    *found[["value", "low", "high"]],
                    n=f"n = {len(data):,} test images, {len(table)} classes, interval over classes",
                    least=0.3,
                    unit="",
                    published="0.95 (second-hand)" if data.name == "cifar10" else "",
                )
            )
    tables = {"": pd.DataFrame(rows), "classes": pd.concat(classes), "repair": pd.DataFrame(repaired)}
    write(__file__, arguments, tables, claims, {dataset: draw(of) for dataset, of in drawn.items()})


def by_class(trainings: Trainings, result: acw.AuditResult, method: str, seed: int) -> pd.DataFrame:
    """Return norm and accuracy by class: robust accuracy, of natural training clean accuracy."""
    table = result.class_table(method, ATTACK)
    norms = acw.metrics.head_weight_norms(trainings.trained(method, seed))
    return table.assign(norm=norms, accuracy=table["clean" if method == "natural" else "robust"])


def correlated(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return all three correlations of norm and accuracy, a row each."""
    found = acw.metrics.correlations(table["norm"], table["accuracy"])
    return found.rename_axis("correlation").reset_index().to_dict("records")


def repair(trainings: Trainings, seed: int) -> list[dict[str, Any]]:
    """Return what normalised heads do to mean and worst class of the adversarially trained network."""
    classifier, shape = trainings.trained("standard", seed), trainings.test.input_shape
    networks = {"tau 0": classifier}
    for tau in TAUS:
        module = acw.head.normalize_head(classifier.model, tau, len(trainings.classes)).eval()
        networks[f"tau {tau:g}"] = acw.as_classifier(module, shape, len(trainings.classes))
    store = trainings.folder / f"heads-{seed}"
    audit = acw.ClassWiseAudit(trainings.setup.threat, [ATTACK], store=store, checks=False, verbose=False)
    summary = audit.evaluate(networks, trainings.test).summary(ATTACK)
    table = summary[["clean", "mean", "worst", "worst_class", "held_out"]].reset_index()
    return table.rename(columns={"model": "head"}).to_dict("records")


def claims_of(trainings: Trainings, rows: pd.DataFrame, repaired: pd.DataFrame, seeds: int) -> list[Claim]:
    """Return what was seen on one data set."""
    name, n = trainings.test.name, f"n = {len(trainings.test):,} test images, {told_seeds(seeds, examples=False)}"
    found = rows[(rows["dataset"] == name) & (rows["correlation"] == "spearman")]
    of = found.pivot(index="seed", columns="network", values="value")
    claims = [
        Claim(
            CLAIM,
            f"{trainings.told}, {method}",
            "Spearman's correlation of norm and robust accuracy",
            *(over_seeds(of[method], within=(-1, 1)) if seeds > 1 else of_classes(found, method)),
            n=n if seeds > 1 else n.replace("over test images", "over classes"),
            least=0.3,
            unit="",
            published="0.95 (second-hand)" if name == "cifar10" else "",
        )
        for method in METHODS
        if method in of
    ]
    if "standard" not in of:
        return claims
    claims.append(
        Claim(
            "2. They are so more than after natural training",
            f"{trainings.told}, standard and natural",
            "correlation of norm and robust accuracy minus that of norm and clean accuracy after natural training",
            *over_seeds(of["standard"] - of["natural"], within=(-2, 2)),
            n=n,
            least=0.2,
            unit="",
        )
    )
    worst = repaired[repaired["dataset"] == name].pivot(index="seed", columns="head", values="held_out")
    claims.append(
        Claim(
            "6. Normalising the head at inference helps the weakest class",
            f"{trainings.told}, standard",
            f"change of the worst class's robust accuracy (held out) by tau = {TAUS[-1]:g}",
            *over_seeds(100 * (worst[f"tau {TAUS[-1]:g}"] - worst["tau 0"]), within=(-100, 100)),
            n=n,
            least=1,
        )
    )
    return claims


def of_classes(found: pd.DataFrame, method: str) -> tuple[float, ...]:
    """Return a network's correlation and its interval over classes."""
    return tuple(map(float, found.set_index("network").loc[method, ["value", "low", "high"]]))


def draw(tables: Sequence[tuple[str, pd.DataFrame]]) -> plt.Figure:
    """Draw robust accuracy against the norm, a picture per network."""
    figure, axes = panels(len(tables))
    for ax, (title, table) in zip(axes, tables, strict=True):
        acw.figures.weight_norms(table["norm"], table, ax, title=title)
    return figure


if __name__ == "__main__":
    main()
