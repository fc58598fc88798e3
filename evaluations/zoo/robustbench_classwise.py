"""RobustBench's models class by class: every model whose weights exist locally, ranked by its worst class.

    python evaluations/zoo/robustbench_classwise.py --root data --checkpoints checkpoints
    python evaluations/zoo/robustbench_classwise.py --size full --root data --model-dir models

Loads and audits every model of the leaderboard whose files are in --model-dir, in RobustBench's layout; nothing is
downloaded. If there is none, the published networks of --checkpoints are used instead, at a radius that suits them.
Writes the leaderboard as a page and as CSV, with mean and worst class, and a table of all classes. The worst class is
measured on other examples than those on which it was chosen. Intervals are over resampled test examples.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.data import load
from lib.experiment import Claim, absent, command, parser, resampled, store_of, write
from lib.published import NETWORKS, at_hand
from lib.setups import QUICK_ATTACKS

import art_classwise as acw

ATTACKS = {"tiny": ["fgsm"], "quick": QUICK_ATTACKS, "full": "standard"}
N = {"tiny": 60, "quick": 1000, "full": None}
STAND_INS = {"cifar10": "Linf:2/255", "mnist": "Linf:0.1"}
"""The radius at which the published networks of a data set are compared."""


def main(argv: Sequence[str] | None = None) -> None:
    """Audit, write the tables and the page."""
    made = parser(__file__, __doc__, datasets=None)
    made.add_argument("--model-dir", help="folder of RobustBench's weights")
    made.add_argument("--dataset", default="cifar10", choices=("cifar10", "cifar100", "imagenet"))
    arguments = made.parse_args(argv)
    found = zoo(arguments.model_dir, arguments.dataset) if arguments.model_dir else {}
    audits: dict[str, acw.AuditResult] = {}
    if found:
        data = load(arguments.dataset, "test", arguments.root, N[arguments.size])
        audits["RobustBench"] = audit(arguments, "robustbench", None, found, data)
    else:
        if arguments.model_dir:
            print(f"No model of RobustBench's lies in {arguments.model_dir}: published networks instead.", flush=True)
        for dataset, threat in STAND_INS.items():
            names = [name for name, (of, _) in NETWORKS.items() if of == dataset]
            there = list(at_hand(arguments.checkpoints, arguments.root, N[arguments.size], names))
            if there:
                models = {name: classifier for name, classifier, _, _ in there}
                audits[f"published, {dataset}"] = audit(arguments, dataset, threat, models, there[0][2])
    if not audits:
        absent("no model is available: give --model-dir (RobustBench's weights) or --checkpoints, and --root")
    boards, classes, claims = [], [], []
    for name, result in audits.items():
        boards.append(leaderboard(result, arguments.dataset if found else None).assign(models=name))
        classes.append(result.by_class().reset_index().assign(models=name))
        claims += claims_of(name, result)
        page = arguments.out / f"{Path(__file__).stem}_{arguments.size}_{name.split(', ')[-1].lower()}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        result.to_html(page)
        print(page)
    figure = draw(boards)
    write(__file__, arguments, {"": pd.concat(boards), "classes": pd.concat(classes)}, claims, figure)


def zoo(model_dir: str, dataset: str) -> dict[str, Any]:
    """Return functions that load the models whose files are all in a folder, by their names."""
    table = acw.zoo.robustbench_table(dataset, "Linf", model_dir)
    return {
        name: partial(acw.load_robustbench, name, dataset, "Linf", model_dir) for name in table.index[table["here"]]
    }


def audit(
    arguments: Any, name: str, threat: str | None, models: Mapping[str, Any], data: acw.Dataset
) -> acw.AuditResult:
    """Return the outcomes of all models."""
    made = acw.ClassWiseAudit(
        threat,
        ATTACKS[arguments.size],
        worst_case=arguments.size == "full",
        store=store_of(arguments) / f"zoo-{name}",
        verbose=False,
        command=command(__file__, arguments),
    )
    return made.evaluate(models, data, optional=[m for m in models if threat is None])


def leaderboard(result: acw.AuditResult, dataset: str | None) -> pd.DataFrame:
    """Return a row per model, the one with the best worst class first, with its rank by mean and RobustBench's number.

    Args:
        result: The audit.
        dataset: Of RobustBench's models; None for others.
    """
    table = result.summary().reset_index()
    columns = [
        "model",
        "clean",
        "mean",
        "worst_class",
        "worst",
        "held_out",
        "worst_low",
        "worst_high",
        "sd",
        "gini",
        "p",
    ]
    table = table[columns].assign(n=result.manifest.examples.n, threat=str(result.threat))
    table["rank by mean"] = table["mean"].rank(ascending=False, method="min").astype(int)
    table["rank by worst class"] = table["held_out"].rank(ascending=False, method="min").astype(int)
    if dataset:
        told = [acw.zoo.published(name, dataset, "Linf") for name in table["model"]]
        table["RobustBench: AutoAttack, 10,000 images"] = [None if t is None else t.robust for t in told]
    return table.sort_values("rank by worst class", kind="stable")


def claims_of(name: str, result: acw.AuditResult) -> list[Claim]:
    """Return how far the mean lies above the worst class, and how many pairs of models change places."""
    classes = len(result.classes)
    rows = [result.rows(model) for model in result.models]
    y = rows[0]["label"].to_numpy()
    right = np.stack([of["withstood"].to_numpy() for of in rows], axis=1)

    def measures(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        of_class = np.bincount(y[rows], minlength=classes)
        there = of_class > 0
        means, worst = [], []
        for model in range(right.shape[1]):
            withstood = np.bincount(y[rows][right[rows, model]], minlength=classes)
            means.append((withstood[there] / of_class[there]).mean())
            worst.append(acw.metrics.worst_class(y[rows], right[rows, model], classes, repeats=20)["accuracy"])
        return np.array(means), np.array(worst)

    def hidden(rows: np.ndarray) -> float:
        means, worst = measures(rows)
        return 100 * float((means - worst).mean())

    def swapped(rows: np.ndarray) -> float:
        means, worst = measures(rows)
        i, j = np.triu_indices(len(means), 1)
        return 100 * float(((means[i] - means[j]) * (worst[i] - worst[j]) < 0).mean())

    n = f"n = {len(y):,} test images, {right.shape[1]} models, interval over images"
    where = f"{name}, {result.threat}"
    claims = [
        Claim(
            "An average hides the worst class",
            where,
            "mean robust accuracy minus that of the worst class, held out, mean over models",
            *resampled(hidden, y, 200),
            n=n,
            least=10,
        )
    ]
    if right.shape[1] > 1:
        claims.append(
            Claim(
                "Ranked by the worst class, models change places",
                where,
                "pairs of models in opposite order by mean and by worst class (close pairs by chance, too)",
                *resampled(swapped, y, 200),
                n=n,
                least=5,
                unit="%",
            )
        )
    return claims


def draw(boards: Sequence[pd.DataFrame]) -> plt.Figure:
    """Draw mean and worst class of each model."""
    height = sum(0.35 * len(board) + 1.2 for board in boards)
    shares = [len(board) + 2 for board in boards]
    figure, axes = plt.subplots(
        len(boards), 1, figsize=(8, height), squeeze=False, layout="constrained", height_ratios=shares
    )
    for ax, board in zip(axes.flat, boards, strict=True):
        y = np.arange(len(board))[::-1]
        ax.hlines(y, 100 * board["worst_low"], 100 * board["worst_high"], color="0.6", lw=1)
        ax.plot(100 * board["held_out"], y, "o", color=acw.figures.WORST, label="worst class, held out, 95 % interval")
        ax.plot(100 * board["mean"], y, "D", color=acw.figures.ROBUST, label="mean over classes")
        ax.set_yticks(y, [f"{m} ({c})" for m, c in zip(board["model"], board["worst_class"], strict=True)])
        ax.set(xlim=(0, 100), xlabel="robust accuracy (%)", ylim=(-0.7, len(board) - 0.3))
        threat, n = board["threat"].iloc[0], board["n"].iloc[0]
        ax.set_title(f"{board['models'].iloc[0]}, {threat}, n = {n:,}", loc="left", fontsize=10, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2)
    return figure


if __name__ == "__main__":
    main()
