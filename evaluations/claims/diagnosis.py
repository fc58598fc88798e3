"""Claim 0 of Tian et al.: robust accuracy differs widely between classes, on every data set.

    python evaluations/claims/diagnosis.py --root data
    python evaluations/claims/diagnosis.py --size full --root data --datasets cifar100
    python evaluations/claims/diagnosis.py --size tiny --stand-in --datasets imagenet

Standard adversarial training, and natural training as the control, with several seeds; PGD-20 with the training's
radius on the test set (after each epoch PGD-10 on a part of it, which the figures call validation, though nothing is
chosen by it). The gap is between the best and the worst class, each chosen on half of the test examples and measured on
the other half, so that the choice doesn't widen it. Intervals are over seeds, with the same test examples; with one
seed, over resampled test examples. CIFAR-100 is also counted by its 20 superclasses: an example is right if its class
is. Data sets that aren't in --root are left out; nothing is downloaded. Sizes: quick uses digits, MNIST, CIFAR-10,
CIFAR-100, SVHN and STL-10; medium (one to two hours per training on two cores) CIFAR-10, CIFAR-100 and STL-10 at 64
pixels; full (a GPU) MNIST, CIFAR-10, CIFAR-100, SVHN, STL-10 and ImageNet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, estimated, parser, timed, told_seeds, write
from lib.setups import SIZES, Trainings

import art_classwise as acw

ATTACK = "pgd-20"
Seen = tuple[np.ndarray, np.ndarray]
"""Labels of the test examples, and whether each was right."""
GAPS = {"svhn": "40–50", "cifar10": "40–50", "stl10": "40–50", "cifar100": "40–50"}
"""The papers' gaps, in points, for their networks."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train, attack, write the tables."""
    arguments = parser(__file__, __doc__, sizes=SIZES).parse_args(argv)
    epochs, classes, claims, drawn = [], [], [], []
    for dataset, trainings in all_trainings(arguments):
        with timed(dataset):
            seen: dict[str, list[Seen]] = {"clean": [], "robust": []}
            for seed in range(arguments.seeds):
                result = trainings.audit(["natural", "standard"], seed, [ATTACK])
                epochs += [by_epoch(trainings, method, seed) for method in ("natural", "standard")]
                classes += [by_class(result, method, dataset, seed) for method in result.models]
                for kind, model in (("clean", "natural"), ("robust", "standard")):
                    rows = result.rows(model, ATTACK)
                    right = rows["clean_prediction"] == rows["label"] if kind == "clean" else rows["withstood"]
                    seen[kind].append((rows["label"].to_numpy(), right.to_numpy()))
            for told, view in trainings.views.items():
                counted = {kind: [(view[y], right) for y, right in of] for kind, of in seen.items()}
                claims += claims_of(trainings, told, counted)
            drawn.append((dataset, trainings))
    figures = {dataset: draw(trainings) for dataset, trainings in drawn}
    write(__file__, arguments, {"": pd.concat(classes), "epochs": pd.concat(epochs)}, claims, figures)


def claims_of(trainings: Trainings, where: str, seen: dict[str, list[Seen]]) -> list[Claim]:
    """Return what was seen on one data set: the gap, and how much it exceeds that of natural training.

    Args:
        trainings: Of the data set.
        where: Data set and network, and what counts as a class.
        seen: Without attack after natural training (``clean``), and under attack after adversarial training
            (``robust``), by seed.
    """

    def gap(kind: str, seed: int, rows: np.ndarray) -> float:
        labels, right = seen[kind][seed]
        return 100 * held_out_gap(labels[rows], right[rows])

    y, seeds = [labels for labels, _ in seen["robust"]], len(seen["robust"])
    n = f"n = {len(trainings.test):,} test images, {told_seeds(seeds)}"
    robust = [partial(gap, "robust", seed) for seed in range(seeds)]
    wider = [lambda rows, s=seed: gap("robust", s, rows) - gap("clean", s, rows) for seed in range(seeds)]
    return [
        Claim(
            "0. Robust accuracy differs widely between classes",
            f"{where}, standard adversarial training",
            "gap in robust accuracy between best and worst class, held out",
            *estimated(robust, y, within=(-100, 100)),
            n=n,
            least=10,
            published=GAPS.get(trainings.test.name, ""),
        ),
        Claim(
            "0. It does so more than clean accuracy after natural training",
            f"{where}, standard adversarial and natural training",
            "robust gap minus clean gap of natural training, held out",
            *estimated(wider, y, within=(-200, 200)),
            n=n,
            least=5,
        ),
    ]


def held_out_gap(y: np.ndarray, right: np.ndarray, repeats: int = 200) -> float:
    """Return the gap in accuracy between the best class and the worst, chosen on one half and measured on the other.

    Args:
        y: Labels (n,).
        right: Whether each example is right, bool (n,).
        repeats: Number of random splits, each used both ways.
    """
    classes, n = np.unique(y, return_counts=True)
    k = np.array([right[y == c].sum() for c in classes])
    n, k = n[n > 1], k[n > 1]
    if len(n) == 0:
        return float("nan")
    rng = np.random.default_rng(0)
    first = rng.hypergeometric(k, n - k, n // 2, (repeats, len(n)))
    halves = first / (n // 2), (k - first) / (n - n // 2)
    gap = 0.0
    for seen, unseen in (halves, halves[::-1]):
        for sign, end in ((1, seen.max(1, keepdims=True)), (-1, seen.min(1, keepdims=True))):
            weight = seen == end  # classes that tie share the choice
            gap += sign * float(((weight * unseen).sum(1) / weight.sum(1)).mean()) / 2
    return gap


def by_epoch(trainings: Trainings, method: str, seed: int) -> pd.DataFrame:
    """Return robust accuracy by epoch and class on the test examples that are attacked after each epoch."""
    history = trainings.history(method, seed)
    columns = {f"val_robust_{k}": name for k, name in enumerate(trainings.classes)}
    table = history[["epoch", *columns]].melt("epoch", var_name="class", value_name="robust")
    named = {"dataset": trainings.test.name, "method": method, "seed": seed}
    return table.assign(**{"class": table["class"].map(columns)}, **named)


def by_class(result: acw.AuditResult, method: str, dataset: str, seed: int) -> pd.DataFrame:
    """Return clean and robust accuracy by class, with intervals."""
    named = {"dataset": dataset, "method": method, "seed": seed, "attack": ATTACK, "threat": str(result.threat)}
    return result.class_table(method, ATTACK).reset_index().assign(**named)


def draw(trainings: Trainings) -> plt.Figure:
    """Draw robust accuracy over the epochs, by class with the gap between the best and the worst, and at the end.

    Of many classes 12 are drawn over the epochs, and at the end how many lie in each interval, and the superclasses.
    """
    name, result = trainings.test.name, trainings.audit(["natural", "standard"], 0, [ATTACK])
    table, groups = result.class_table("standard", ATTACK), trainings.groups
    figure, axes = plt.subplots(1, 2 + (groups is not None), figsize=(14 if groups is None else 20, 5))
    figure.set_layout_engine("constrained")
    history = trainings.history("standard", 0)
    acw.figures.training_curves(history, axes[0], classes=trainings.classes, data="validation", title=name)
    drawing = acw.figures.class_accuracy if len(table) <= 20 else acw.figures.class_histogram
    drawing(table, axes[1], title=f"{name}, {ATTACK}, seed 0")
    if groups is not None:
        by_group = result.by_group(groups).loc["standard", ATTACK]
        acw.figures.class_accuracy(by_group, axes[2], title=f"{len(by_group)} superclasses")
    return figure


if __name__ == "__main__":
    main()
