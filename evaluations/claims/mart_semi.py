"""Do unlabelled images help MART? MART with few labels and unlabelled images, and with the few labels alone.

    python evaluations/claims/mart_semi.py --root data
    python evaluations/claims/mart_semi.py --size full --root data

Each seed has other labelled images, initial weights and orders. Both trainings take the same number of steps with
batches of 128, half of which is unlabelled in the first; the second uses its labels twice as often. Both use the
weights of the last epoch. Pseudo-labels come from natural training on the labels. On CIFAR-10 and STL-10 both trainings
begin at the weights of that, since from fresh ones CNN-A stays at a constant prediction. Accuracies are means over
classes, under PGD-40 with steps of a quarter of the radius on the test set, and under AutoAttack on a part of it.

Intervals are over seeds and don't include the sampling error of the test images, which are the same for all seeds; with
one seed, they are over resampled test images. Sizes: quick uses MNIST with 1,000 labels, or digits with 128 if MNIST is
missing, CIFAR-10 with 2,000 of 50,000 labels, and STL-10 with 1,000 of 5,000; full (a GPU) CIFAR-10 with 4,000 labels,
and STL-10 with its 5,000 and its 100,000 images without. MNIST's radius is 0.1: at 0.2 a network with a third of these
weights learnt little from 1,000 labels in either case (one seed); MNIST's usual 0.3 was not tried. Interrupted runs
resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.data import load
from lib.experiment import Claim, all_trainings, estimated, over_seeds, parser, timed, told_seeds, write
from lib.setups import Setup, Trainings

import art_classwise as acw
from art_classwise.trainers import METHODS, PseudoLabels, make_pseudo_labels

BATCH, NATURAL_LR = 128, 0.02
ATTACKS = {"PGD-40": "pgd-40", "AutoAttack": "autoattack"}
KINDS = ("supervised", "semi-supervised")


@dataclass(frozen=True)
class Semi(Setup):
    """How it is trained with few labels; the epochs are passes over the labels in semi-supervised training.

    Attributes:
        labels: Training examples with labels.
        n_autoattack: Test examples for AutoAttack.
        label_epochs: Of the natural training that makes pseudo-labels; the trainer's own number if None.
        unlabelled: The split of images without labels; if empty, the training images whose labels aren't used.
    """

    labels: int = 1000
    n_autoattack: int = 100
    label_epochs: int | None = None
    unlabelled: str = ""


TINY = {"labels": 128, "n_autoattack": 2, "label_epochs": 2}
SIZES = {
    "tiny": {
        "digits": Semi("digits", "digits-cnn", "Linf:0.1", 2, 1, 400, 40, **TINY),
        "mnist": Semi("mnist", "few-channels", "Linf:0.1", 2, 1, 400, 40, **TINY),
        "cifar10": Semi("cifar10", "cnn-a", "Linf:8/255", 2, 1, 400, 40, natural_first=1, **TINY),
        "stl10": Semi("stl10", "cnn-a", "Linf:8/255", 1, 1, 400, 40, image_size=32, natural_first=1, **TINY),
    },
    "quick": {
        "digits": Semi("digits", "digits-cnn", "Linf:0.1", 60, 5, labels=128, n_autoattack=100),
        "mnist": Semi("mnist", "few-channels", "Linf:0.1", 30, 5, None, 2000, labels=1000, n_autoattack=100),
        "cifar10": Semi(
            *("cifar10", "cnn-a", "Linf:4/255", 10, 5, None, 1000), lr=0.005, natural_first=30, labels=2000
        ),
        "stl10": Semi(
            *("stl10", "cnn-a", "Linf:4/255", 20, 5, None, 1000),
            image_size=32,
            lr=0.005,
            natural_first=60,
            labels=1000,
        ),
    },
    "full": {
        "cifar10": Semi("cifar10", "resnet18", "Linf:8/255", 150, 10, recipe="fast", labels=4000, n_autoattack=1000),
        "stl10": Semi(
            *("stl10", "torchvision-resnet18", "Linf:8/255", 120, 10),
            recipe="fast",
            labels=5000,
            unlabelled="unlabeled",
            n_autoattack=1000,
        ),
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and attack whatever isn't in the store yet; write the tables."""
    arguments = parser(__file__, __doc__, datasets=tuple(dict.fromkeys(d for known in SIZES.values() for d in known)))
    arguments = arguments.parse_args(argv)
    rows, claims, drawn = [], [], []
    for _, trainings in all_trainings(arguments, default=default(arguments), sizes=SIZES, part="mart-semi"):
        seeds = []
        for seed in range(arguments.seeds):
            with timed(f"{trainings.test.name}, seed {seed}"):
                pair = {kind: Training(kind, seed, trainings) for kind in KINDS}
            rows += [one.row() for one in pair.values()]
            seeds.append(pair)
        claims += claims_of(trainings, seeds)
        drawn.append((trainings, seeds))
    write(__file__, arguments, {"": pd.DataFrame(rows)}, claims, draw(drawn))


def default(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the data sets to take if none is asked for: digits only where MNIST is absent."""
    if arguments.size == "full":
        return tuple(SIZES["full"])
    try:
        load("mnist", "test", arguments.root, 1)
    except acw.InputError:
        return ("mnist",) if arguments.stand_in else ("digits", "cifar10", "stl10")
    return ("mnist", "cifar10", "stl10")


class Training:
    """One training and its outcomes under attack; both are done if they aren't in the store.

    Args:
        kind: One of :data:`KINDS`.
        seed: Of the labels drawn, of weights and order.
        trainings: Data, network and recipe.
    """

    def __init__(self, kind: str, seed: int, trainings: Trainings) -> None:
        setup = trainings.setup
        assert isinstance(setup, Semi)
        self._setup, self.folder = setup, trainings.folder / f"{kind}-{seed}"
        if setup.unlabelled:
            labelled = trainings.train
            rest = load(setup.dataset, setup.unlabelled, trainings.root, image_size=setup.image_size)
        else:
            rest, labelled = trainings.train.hold_out(setup.labels, seed=seed)
        self._told: dict[str, Any] = {"dataset": trainings.test.name, "kind": kind, "seed": seed}
        self._told |= {"threat": setup.threat, "labels": len(labelled)}
        classifier = self._trained(trainings, labelled, rest if kind == "semi-supervised" else None, seed)
        self._told |= json.loads((self.folder / "told.json").read_text())
        data = dict.fromkeys(ATTACKS, trainings.test)
        if setup.n_autoattack < len(trainings.test):
            data["AutoAttack"] = trainings.test.hold_out(setup.n_autoattack)[1]
        self.results = {
            name: acw.ClassWiseAudit(
                setup.threat, [attack], store=self.folder / f"audit-{attack}", checks=False, verbose=False
            ).evaluate({"net": classifier}, data[name])
            for name, attack in ATTACKS.items()
        }

    def _trained(self, trainings: Trainings, labelled: acw.Dataset, rest: acw.Dataset | None, seed: int) -> Any:
        """Return the trained network as an ART classifier; what is to be told of the training lies in the folder."""
        module = trainings.network(seed)
        shape, n_classes = labelled.input_shape, len(labelled.classes)
        epochs = trainings.setup.epochs * (1 if rest is not None else 2)
        recipe = trainings.recipe("mart").override(batch_size=BATCH, epochs=epochs)
        optimizer = recipe.optimizer(module)
        classifier = acw.as_classifier(module, shape, n_classes, optimizer=optimizer)
        if (self.folder / "weights.pt").is_file():
            module.load_state_dict(torch.load(self.folder / "weights.pt", weights_only=True, map_location="cpu"))
            module.eval()
            return classifier
        trainer = acw.AdversarialTrainerMARTPyTorch(
            classifier, **recipe.trainer_options(module), seed=seed, verbose=False
        )
        images = {} if rest is None else {"x_unlabeled": rest.x}
        made = self._begin(trainings, module, labelled, rest, seed) if self._setup.natural_first else None
        if made is not None:
            images["y_pseudo"] = made.labels
        elif rest is not None and self._setup.label_epochs is not None:
            made = make_pseudo_labels(
                classifier, labelled.x, labelled.y, rest.x, nb_epochs=self._setup.label_epochs, seed=seed, verbose=False
            )
            images["y_pseudo"] = made.labels
        trainer.fit(
            labelled.x,
            labelled.y,
            **recipe.fit_options(optimizer, len(labelled), batch_size=None if rest is None else BATCH // 2),
            checkpoint_dir=self.folder / "training",
            resume=True,
            **images,
        )
        told: dict[str, Any] = {"unlabelled": 0 if rest is None else len(rest)}
        if rest is not None:
            made = made or trainer.pseudo_labels
            told["confidence"] = made.summary()["mean_confidence"]
            told["pseudo-labels right"] = float("nan" if self._setup.unlabelled else (made.labels == rest.y).mean())
        (self.folder / "told.json").write_text(json.dumps(told))
        torch.save(module.state_dict(), self.folder / "weights.pt")
        module.eval()
        return classifier

    def _begin(
        self, trainings: Trainings, module: Any, labelled: acw.Dataset, rest: acw.Dataset | None, seed: int
    ) -> PseudoLabels | None:
        """Give a network the weights of natural training on the labels, and return its labels of the other images."""
        recipe = trainings.recipe("natural").override(batch_size=BATCH, lr=NATURAL_LR)
        optimizer = recipe.optimizer(module)
        shape, n_classes = labelled.input_shape, len(labelled.classes)
        classifier = acw.as_classifier(module, shape, n_classes, optimizer=optimizer)
        options = recipe.trainer_options(module) | {"seed": seed, "verbose": False}
        METHODS["natural"].trainer(classifier, **options).fit(
            labelled.x,
            labelled.y,
            **recipe.fit_options(optimizer, len(labelled)),
            checkpoint_dir=self.folder.parent / f"natural-{seed}",
            resume=True,
        )
        if rest is None:
            return None
        logits = torch.from_numpy(np.concatenate([classifier.predict(x) for x in batches(rest)]))
        confidence, labels = logits.softmax(1).max(1)
        return PseudoLabels(labels.numpy(), confidence.numpy(), n_classes)

    def seen(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and who withstood an attack, (n,) each."""
        rows = self.results[attack].outcomes
        return rows["label"].to_numpy(), rows["withstood"].to_numpy()

    def row(self) -> dict[str, Any]:
        """Return what a table says of it."""
        row = dict(self._told)
        for name, result in self.results.items():
            table = result.class_table("net", ATTACKS[name])
            row |= {f"{name} robust": table["robust"].mean(), f"{name} worst class": table["robust"].min()}
            row[f"{name} n"] = int(table["n"].sum())
            if name == "PGD-40":
                row["clean"] = table["clean"].mean()
        return row


def batches(data: acw.Dataset, size: int = 1000) -> Iterator[np.ndarray]:
    """Yield the images of a data set, so many at a time."""
    for begin in range(0, len(data), size):
        yield np.asarray(data.x[begin : begin + size])


def claims_of(trainings: Trainings, seeds: Sequence[dict[str, Training]]) -> list[Claim]:
    """Return what unlabelled images gained on one data set, by seed, under each attack."""
    setup, claims = trainings.setup, []
    assert isinstance(setup, Semi)
    for name in ATTACKS:
        labels = [pair["supervised"].seen(name)[0] for pair in seeds]
        gains = [
            partial(gain, labels[k], *(pair[kind].seen(name)[1] for kind in KINDS)) for k, pair in enumerate(seeds)
        ]
        claims.append(
            Claim(
                "7b. Unlabelled images make MART more robust",
                f"{trainings.told}, MART, {setup.labels:,} labels",
                f"mean class accuracy under {name}, semi-supervised minus supervised",
                *estimated(gains, labels, within=(-100, 100)),
                n=f"n = {len(labels[0]):,} test images, {told_seeds(len(seeds))}",
                least=1,
            )
        )
    return claims


def gain(y: np.ndarray, first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean over classes of how much more often the second is right, in points.

    Args:
        y: Labels (n,).
        first: Whether it is right, bool (n,).
        second: Likewise.
        rows: The examples to take, with repeats.
    """
    difference = second[rows].astype(float) - first[rows]
    return 100 * float(pd.Series(difference).groupby(y[rows]).mean().mean())


def draw(all_of: Sequence[tuple[Trainings, Sequence[dict[str, Training]]]]) -> plt.Figure:
    """Draw robust accuracy by class under PGD-40, both trainings, the mean over seeds and each seed."""
    figure, axes = plt.subplots(1, len(all_of), figsize=(7 * len(all_of), 4.5), squeeze=False, layout="constrained")
    colours = (acw.figures.WORST, acw.figures.ROBUST)
    for ax, (trainings, seeds) in zip(axes[0], all_of, strict=True):
        for kind, colour, shift in zip(KINDS, colours, (-0.18, 0.18), strict=True):
            tables = [pair[kind].results["PGD-40"].class_table("net", "pgd-40")["robust"] for pair in seeds]
            values = 100 * np.array(tables)
            at = np.arange(values.shape[1]) + shift
            ax.bar(at, values.mean(axis=0), 0.34, color=colour, alpha=0.75, label=kind)
            ax.plot(np.tile(at, (len(values), 1)), values, ".", color="black", ms=4)
        ax.set_xticks(range(len(trainings.classes)), trainings.classes, rotation=rotation(trainings.classes))
        ax.set(ylim=(0, 100), xlabel="class", ylabel="robust accuracy under PGD-40 (%)")
        ax.spines[["top", "right"]].set_visible(False)
        mean, low, high = over_seeds(
            [gain(*p["supervised"].seen("PGD-40"), p["semi-supervised"].seen("PGD-40")[1], slice(None)) for p in seeds]
        )
        told = f"mean over classes: {mean:+.1f} points" + (f" ({low:+.1f} to {high:+.1f})" if low == low else "")
        setup = trainings.setup
        title = f"{trainings.test.name}, {setup.labels:,} labels, {setup.threat}\n{told}; dots: {len(seeds)} seeds"
        ax.set_title(title, loc="left", fontsize="medium")
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")
    return figure


def rotation(names: Sequence[str]) -> int:
    """Return by how many degrees to turn the names of classes on an axis."""
    return 90 if max(len(str(name)) for name in names) > 3 else 0


if __name__ == "__main__":
    main()
