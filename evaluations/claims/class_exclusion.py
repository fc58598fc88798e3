"""Claim 1 of Tian et al.: an attack moves a class into few classes, and examples become robust once theirs is excluded.

    python evaluations/claims/class_exclusion.py --root data
    python evaluations/claims/class_exclusion.py --size full --root data
    torchrun --nproc-per-node 8 evaluations/claims/class_exclusion.py --size full --root data

Standard adversarial training on all classes, and without each chosen class in turn; PGD-20 with the training's radius
on the test set. *Homed*: of the examples that the attack moved into a class, the share that withstands in the network
trained without it. Control: the same examples in the network trained without an unrelated class, the excluded one that
is least confused with theirs. *Reach*: the classes into which a targeted search of 20 steps pushes a test example that
is correctly classified without an attack. *Confounding classes*: those that a class is most often predicted as under
PGD-20.

Intervals are over seeds, with the same test examples; with one seed, over resampled test examples. Sizes: quick uses
digits, and MNIST without 3, 4, 5, 8 and 9; full (a GPU) uses all classes of CIFAR-10. Under torchrun the processes
share the trainings. Interrupted runs resume.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, estimated, parser, timed, told_seeds, write
from lib.setups import Trainings

import art_classwise as acw
from art_classwise._core.distributed import is_main

ATTACK, ALL = "pgd-20", "all classes"
N_REACH = {"tiny": 30, "quick": 500, "full": 2000}
"""Test examples that are searched from towards each class."""
CLASSES = {("tiny", "digits"): ("1", "8"), ("tiny", "mnist"): ("3", "8"), ("quick", "mnist"): tuple("34589")}
"""The classes that are excluded, if not all."""
FEW = 3
"""How many classes count as few."""


@dataclass(frozen=True)
class Seen:
    """What was seen with one seed.

    Attributes:
        result: Of the study.
        moved: The examples that the attack moved to an excluded class: see :func:`moved`.
        labels: Of the examples searched from that are right without attack, int64 (n,).
        reach: Into which classes each was moved, bool (n, C).
    """

    result: acw.studies.ExclusionResult
    moved: pd.DataFrame
    labels: np.ndarray
    reach: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    """Train, attack, write the tables."""
    made = parser(__file__, __doc__)
    made.add_argument("--classes", nargs="+", help="names of the classes to exclude; default: those of the size")
    arguments = made.parse_args(argv)
    excluded, pairs, confounding, reach, claims, drawn = [], [], [], [], [], []
    for dataset, trainings in all_trainings(
        arguments, default=("cifar10",) if arguments.size == "full" else ("digits", "mnist")
    ):
        classes = arguments.classes or CLASSES.get((arguments.size, dataset))
        try:
            for name in classes or ():
                trainings.test.class_number(name)
        except acw.InputError as error:
            sys.exit(f"error: --classes: {error}")
        with timed(dataset):
            seeds = [study(trainings, seed, classes, N_REACH[arguments.size]) for seed in range(arguments.seeds)]
        for seed, one in enumerate(seeds):
            named = {"dataset": trainings.test.name, "seed": seed, "attack": ATTACK, "threat": trainings.setup.threat}
            tested = {**named, "test examples": len(trainings.test)}
            excluded.append(one.result.homing(pooled=True).reset_index().assign(**tested))
            pairs.append(one.result.homing().reset_index().assign(**tested))
            confounding.append(confounding_classes(one.result).assign(**tested))
            reach.append(reach_matrix(one, trainings.classes).reset_index().assign(**named))
        claims += claims_of(trainings, seeds)
        drawn.append((trainings, seeds[0]))
    if is_main():
        tables = {"": excluded, "pairs": pairs, "confounding": confounding, "reach": reach}
        write(__file__, arguments, {end: pd.concat(parts) for end, parts in tables.items()}, claims, draw(drawn))


def study(trainings: Trainings, seed: int, classes: Sequence[str] | None, n_reach: int) -> Seen:
    """Return what was seen with one seed; it is trained and attacked if it isn't in the store.

    Args:
        trainings: Data, network and recipe.
        seed: Of weights and order.
        classes: The classes to exclude; all if absent.
        n_reach: Test examples that are searched from towards each class.
    """
    folder = trainings.folder / f"exclusion-{seed}"
    exclusion = acw.ClassExclusionStudy(
        partial(trainings.network, seed),
        trainings.recipe("standard"),
        attack=ATTACK,
        store=folder,
        seed=seed,
        verbose=False,
    )
    result = exclusion.evaluate(trainings.train, trainings.test, classes)
    classifier = acw.load_checkpoint(folder / "all" / "model.pt", trainings.network(seed))
    some = trainings.test if n_reach >= len(trainings.test) else trainings.test.hold_out(n_reach)[1]
    right = np.flatnonzero(classifier.predict(some.x).argmax(1) == some.y)
    threat = acw.ThreatModel.parse(trainings.setup.threat)
    attack = acw.ClassWiseAttack(classifier, norm=threat.art_norm, eps=threat.eps, verbose=False)
    return Seen(result, moved(result), some.y[right], attack.reach(some.x[right], some.y[right]))


def moved(result: acw.studies.ExclusionResult) -> pd.DataFrame:
    """Return the examples that the attack moved to an excluded class and that have a control, a row each.

    Columns: ``label``, and whether it withstands in the network without that class (``homed``) and in the control's.
    """
    tables = {name: rows.set_index("example") for name, rows in result.audit.outcomes.groupby("model", observed=True)}
    full, number = tables[ALL], {name: k for k, name in enumerate(result.audit.classes)}
    parts = [pd.DataFrame({"label": [], "homed": [], "control": []}, dtype=bool).astype({"label": np.int64})]
    for row in result.homing().reset_index().itertuples():
        if isinstance(row.control, str):
            here = full.index[(full["label"] == number[row[1]]) & (full["prediction"] == number[row.excluded])]
            kinds = {"homed": row.excluded, "control": row.control}
            withstood = {k: tables[f"without {c}"]["withstood"].loc[here].to_numpy() for k, c in kinds.items()}
            parts.append(pd.DataFrame({"label": number[row[1]], **withstood}))
    return pd.concat(parts, ignore_index=True)


def confounding_classes(result: acw.studies.ExclusionResult) -> pd.DataFrame:
    """Return the classes that each class is taken for most often under attack, a few of each."""
    pairs = result.audit.confusion_pairs(ALL, ATTACK)
    return pairs.groupby("class", sort=False).head(FEW).reset_index()


def reach_matrix(seen: Seen, classes: Sequence[str]) -> pd.DataFrame:
    """Return which share of a class can be moved into each class, (C, C), a row per class.

    Before them stand ``n``, the examples that are right without attack, and ``movable``, the share that can be moved
    at all. NaN on the diagonal, and for a class without examples.
    """
    index = pd.Index(classes, name="class")
    found = pd.DataFrame(seen.reach, columns=[f"to {name}" for name in classes]).groupby(seen.labels)
    shares = found.mean().reindex(range(len(classes))).set_axis(index)
    shares = shares.mask(np.eye(len(classes), dtype=bool))
    by_label = pd.Series(seen.reach.any(axis=1)).groupby(seen.labels)
    whole = range(len(classes))
    shares.insert(0, "n", by_label.size().reindex(whole, fill_value=0).to_numpy())
    shares.insert(1, "movable", by_label.mean().reindex(whole).to_numpy())
    return shares


def claims_of(trainings: Trainings, seeds: Sequence[Seen]) -> list[Claim]:
    """Return what was seen on one data set: homing, few target classes, and the same ones within a class."""
    where, n_classes = f"{trainings.told}, standard adversarial training", len(trainings.classes)
    told = told_seeds(len(seeds))
    homing, few, same = [], [], []
    for one in seeds:
        difference = 100 * (one.moved["homed"].astype(float) - one.moved["control"]).to_numpy()
        movable = one.reach[one.reach.any(axis=1)]
        labels = one.labels[one.reach.any(axis=1)]
        homing.append((one.moved["label"].to_numpy(), partial(mean, difference)))
        few.append((labels, partial(mean, 100.0 * (movable.sum(axis=1) <= FEW))))
        same.append((labels, partial(beyond_chance, labels, movable)))
    n_moved = sum(len(one.moved) for one in seeds)
    n = f"n = {sum(len(labels) for labels, _ in few):,} examples that can be moved, "
    n += f"of {sum(len(one.labels) for one in seeds):,} that are right without attack, {told}"
    return [
        Claim(
            "1. Without the class that the attack moved them to, examples withstand",
            where,
            f"share that withstands {ATTACK}, minus the control's, over all excluded classes",
            *over_all(homing, (-100, 100)),
            n=f"n = {n_moved:,} examples moved, of {len(trainings.test):,} in each seed, {told}",
            least=10,
        ),
        Claim(
            f"1. An example that can be moved at all can be moved into few classes only: {FEW} at most",
            where,
            f"share of those examples with at most {FEW} target classes of {n_classes - 1}",
            *over_all(few, (0, 100)),
            n=n,
            null=50,
            least=50,
            unit="%",
        ),
        Claim(
            "1. They are the same few classes for the examples of a class",
            where,
            f"share of all moves that go into the class's {FEW} commonest targets, held out, minus {FEW} of "
            f"{n_classes - 1}",
            *over_all(same, (-100, 100)),
            n=n,
            least=10,
        ),
    ]


def over_all(seeds: Sequence[tuple[np.ndarray, partial[float]]], within: tuple[float, float]) -> tuple[float, ...]:
    """Return a statistic and its interval over the seeds that had examples; NaN without any."""
    some = [(labels, statistic) for labels, statistic in seeds if len(labels)]
    if not some:
        return (float("nan"),) * 3
    return estimated([statistic for _, statistic in some], [labels for labels, _ in some], within=within)


def mean(values: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean of some values."""
    return float(values[rows].mean())


def beyond_chance(labels: np.ndarray, reach: np.ndarray, rows: np.ndarray, repeats: int = 20) -> float:
    """Return how many points of all moves go into the few commonest targets of each class, beyond what any few get.

    The commonest are chosen on one half of a class's examples and counted on the other half.

    Args:
        labels: int64 (n,).
        reach: bool (n, C).
        rows: The examples to take, with repeats.
        repeats: Number of random halvings, each used both ways.
    """
    rng, n_classes = np.random.default_rng(0), reach.shape[1]
    within, total = 0.0, 0
    for k in np.unique(labels[rows]):
        of_class = np.delete(reach[rows[labels[rows] == k]], k, axis=1)
        if len(of_class) < 2:
            continue
        for _ in range(repeats):
            order = rng.permutation(len(of_class))
            halves = of_class[order[::2]], of_class[order[1::2]]
            for seen, unseen in (halves, halves[::-1]):
                commonest = np.argsort(-seen.sum(axis=0) + 0.5 * rng.random(n_classes - 1))[:FEW]
                within, total = within + unseen[:, commonest].sum(), total + unseen.sum()
    return 100 * (within / total - FEW / (n_classes - 1)) if total else float("nan")


def draw(all_of: Sequence[tuple[Trainings, Seen]]) -> plt.Figure:
    """Draw the confusion under attack, the reach and the homing of each data set, with the first seed."""
    figure, axes = plt.subplots(len(all_of), 3, figsize=(21, 6 * len(all_of)), squeeze=False, layout="constrained")
    for (left, middle, right), (trainings, seen) in zip(axes, all_of, strict=True):
        named = f"{trainings.test.name}, {ATTACK}, seed 0"
        acw.figures.confusion(seen.result.audit.confusion(ALL, ATTACK), left, title=f"{named}: taken for")
        draw_reach(reach_matrix(seen, trainings.classes), middle, title=f"{trainings.test.name}, seed 0: reach")
        homing = seen.result.homing(pooled=True)
        if len(homing):
            acw.figures.homing(homing, right, title=f"{named}: without each class")
        else:
            right.set_axis_off()
    return figure


def draw_reach(table: pd.DataFrame, ax: plt.Axes, *, title: str) -> None:
    """Draw a reach matrix, with the numbers if there is room."""
    percent = 100 * table.drop(columns=["n", "movable"]).to_numpy()
    n_classes = len(percent)
    ax.imshow(percent, cmap="Oranges", vmin=0, vmax=100, aspect="auto")
    ax.set(xlabel="can be moved into (% of those right without attack)", ylabel="true class")
    ax.set_title(title, loc="left", fontweight="bold", fontsize="medium")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if n_classes <= 20:
        names = [str(name) for name in table.index]
        ax.set_xticks(range(n_classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        ax.set_yticks(range(n_classes), names)
        for (i, j), value in np.ndenumerate(percent):
            if value >= 0.5:
                ax.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "black")


if __name__ == "__main__":
    main()
