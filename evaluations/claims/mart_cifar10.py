"""The claims of MART's paper on CIFAR-10: white-box and black-box attacks, ablations, label noise.

    python evaluations/claims/mart_cifar10.py --root data
    python evaluations/claims/mart_cifar10.py --size full --root data --compile --seeds 1 --parts white black
    python evaluations/claims/mart_cifar10.py --size tiny --stand-in

The folder --root holds CIFAR-10 in torchvision's layout, or cifar10_train.npz and cifar10_test.npz with arrays ``x``
(uint8 images) and ``y``. Full size (a GPU) is ResNet-18 with the published recipe, 120 epochs on all of CIFAR-10,
evaluated on all 10,000 test images, beside standard adversarial training and TRADES with the same budget. Quick size is
a network of two convolutions and 10,000 training images; each adversarial training has three epochs and starts from the
naturally trained network of its seed. Its numbers can't be compared with the paper's.

Parts: ``white`` attacks the networks themselves; ``black`` transfers attacks from a naturally and from an adversarially
trained network of another seed; ``ablations`` varies MART's loss and attack, and asks the two questions of its paper's
section 3: another attack on misclassified examples, and the regulariser on one part of the examples only; ``noise``
replaces 10 % and 20 % of the training labels by another random class, the same for both methods. --seeds applies to the
first two parts, --variant-seeds to the other two, which take 14 trainings per seed. Intervals are over seeds, with the
same test examples; with one seed, over resampled test examples, which doesn't include the spread between trainings. A
network at chance without an attack counts as not trained: claims about it have no interval and are unclear. Medium size
is a small residual network on all of CIFAR-10: a single-step training of 15 epochs, which all adversarial trainings of
a seed share, and four epochs of each method from its averaged weights; about ten minutes each on a core.

The attacks are the paper's: FGSM; PGD-20 and CW-inf (PGD on the margin, 30 steps), both from a uniform start, with
steps of 0.003 at 8/255, and evaluated at their last step; and AutoAttack. At full size all use 8/255, while the
published recipe trains at 0.031, which is 7.905/255. There are the weights of the last epoch and those of the best
epoch, which has the highest robust accuracy under PGD-10 on 1,000 *test* images: the paper also chose on its test set
(and separately for each attack). Claims use the best epoch. At the other sizes nothing is chosen, and claims use the
last epoch.

Interrupted runs resume: training after the last epoch, an attack after the last 512 images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import absent, over_seeds, parser, store_of, timed, whole, write
from lib.mart import (
    ABLATIONS,
    KINDS,
    METHODS,
    NOISES,
    PAPERS,
    SETUPS,
    SURROGATES,
    Networks,
    autoattack,
    noise_kind,
    papers,
    told,
    transferred,
)
from lib.mart_claims import TOGETHER, Verdicts, judged, report, with_together

import art_classwise as acw
from art_classwise.report.figures import CLEAN, ROBUST


def main(argv: Sequence[str] | None = None) -> None:
    """Train, attack, write the tables."""
    arguments = _parser().parse_args(argv)
    size, store, published = arguments.size, store_of(arguments), arguments.size == "full"
    try:
        networks = Networks(size, arguments.root, store, made_up=arguments.stand_in, compile=arguments.compile)
    except acw.InputError as error:
        absent(str(error))
    measured = {part: with_together(PARTS[part](networks, arguments)) for part in arguments.parts}
    outcomes = pd.concat([rows.assign(part=part) for part, rows in measured.items()], ignore_index=True)
    overall = summary(outcomes, networks)
    tables = {"": overall, "classes": by_class(outcomes, networks.data.classes), "epochs": by_epoch(outcomes, networks)}
    first = {part: rows[rows["weights"] == networks.weights[0]] for part, rows in measured.items()}
    claims = judged(first, networks.trainings.told, published=published)
    failed = {kind for rows in first.values() for kind in Verdicts(rows).at_chance(rows["kind"])}
    print(report(overall, published=published))
    write(__file__, arguments, tables, claims, draw(overall[overall["weights"] == networks.weights[0]], failed))


def white(networks: Networks, arguments: argparse.Namespace) -> pd.DataFrame:
    """Attack the networks themselves."""
    parts = []
    for seed in range(arguments.seeds):
        with timed(f"white box, seed {seed}"):
            parts.append(networks.outcomes(arguments.methods, seed, papers(networks.eps)))
            parts.append(networks.outcomes(arguments.methods, seed, autoattack(networks.eps, arguments.size), few=True))
    return pd.concat(parts, ignore_index=True)


def black(networks: Networks, arguments: argparse.Namespace) -> pd.DataFrame:
    """Attack surrogates, and try what comes of it on the networks; beside it the white box."""
    parts = []
    for seed in range(arguments.seeds):
        with timed(f"black box, seed {seed}"):
            found = networks.outcomes(arguments.methods, seed, transferred(networks, seed, arguments.seeds))
            parts.append(found.assign(attack=found["attack"].str.replace(r" \d+$", "", regex=True)))
            parts.append(networks.outcomes(arguments.methods, seed, papers(networks.eps)))
    return pd.concat(parts, ignore_index=True)


def ablations(networks: Networks, arguments: argparse.Namespace) -> pd.DataFrame:
    """Attack networks that were trained by parts of MART, and by the whole of it."""
    parts = []
    for seed in range(arguments.variant_seeds):
        with timed(f"ablations, seed {seed}"):
            parts.append(networks.outcomes(("mart", *arguments.variants), seed, papers(networks.eps)))
    return pd.concat(parts, ignore_index=True)


def noise(networks: Networks, arguments: argparse.Namespace) -> pd.DataFrame:
    """Attack networks that were trained on labels of which some are wrong."""
    kinds = [noise_kind(method, share) for share in (0, *NOISES) for method in ("standard", "mart")]
    parts = []
    for seed in range(arguments.variant_seeds):
        with timed(f"label noise, seed {seed}"):
            parts.append(networks.outcomes(kinds, seed, papers(networks.eps)))
    return pd.concat(parts, ignore_index=True)


PARTS = {"white": white, "black": black, "ablations": ablations, "noise": noise}
"""What is measured, by name."""


def summary(outcomes: pd.DataFrame, networks: Networks) -> pd.DataFrame:
    """Return the accuracies on all images, means over seeds.

    Args:
        outcomes: As :meth:`Networks.outcomes` returns them, with ``part``.
        networks: Which they are of.

    Returns:
        A row per part, kind, weights and attack (``"both"`` is PGD-20 and CW-30 together): ``n`` images, ``seeds``,
        ``epochs`` the weights are from, ``accuracy`` with ``low`` and ``high``, the 95 % interval over seeds, or of one
        seed Wilson's, and ``recipe``.
    """
    keys, rows = ["part", "kind", "weights", "attack"], []
    for (part, kind, weights, attack), found in outcomes.groupby(keys, sort=False):
        found = found.drop_duplicates(["seed", "example"])
        by_seed = found.groupby("seed")["right"]
        shares, n = by_seed.mean(), int(by_seed.size().iloc[0])
        mean, low, high = over_seeds(list(shares), within=(0, 1))
        if len(shares) == 1:
            low, high = map(float, acw.metrics.wilson(found["right"].sum(), n))
        epochs = ", ".join(str(networks.epoch(kind, seed, weights)) for seed in shares.index)
        values = {"n": n, "seeds": len(shares), "epochs": epochs, "accuracy": mean, "low": low, "high": high}
        rows.append({"part": part, "kind": kind, "weights": weights, "attack": attack, **values})
    table = pd.DataFrame(rows)
    recipes = {kind: told(networks.recipe(KINDS[kind].method)) for kind in table["kind"].unique()}
    radius = np.where(table["attack"] == "clean", 0.0, 255 * networks.eps)
    return table.assign(**{"eps x 255": radius, "recipe": table["kind"].map(recipes)})


def by_class(outcomes: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the accuracies class by class and seed by seed.

    Args:
        outcomes: As :meth:`Networks.outcomes` returns them.
        classes: Names of the classes.

    Returns:
        A row per kind, weights, seed, attack and class: ``n``, ``accuracy``, ``low``, ``high``; the last two are the
        95 % Wilson interval; NaN of a class without images.
    """
    keys = ["kind", "weights", "seed", "attack"]
    found = outcomes.drop_duplicates([*keys, "example"])
    counts = found.groupby([*keys, "label"], sort=False)["right"].agg(["size", "sum"])
    every = [(*of, k) for of in found[keys].drop_duplicates().itertuples(index=False) for k in range(len(classes))]
    counts = counts.reindex(pd.MultiIndex.from_tuples(every, names=[*keys, "class"]), fill_value=0).astype(int)
    low, high = acw.metrics.wilson(counts["sum"], counts["size"])
    with np.errstate(invalid="ignore"):
        accuracy = counts["sum"] / counts["size"]
    table = pd.DataFrame({"n": counts["size"], "accuracy": accuracy, "low": low, "high": high}).reset_index()
    return table.assign(**{"class": table["class"].map(dict(enumerate(classes)))})


def by_epoch(outcomes: pd.DataFrame, networks: Networks) -> pd.DataFrame:
    """Return the trainings epoch by epoch."""
    trained = outcomes[["kind", "seed"]].drop_duplicates().itertuples(index=False)
    return pd.concat([networks.history(kind, seed).assign(kind=kind, seed=seed) for kind, seed in trained])


NAMES = {
    **{"standard": "AT", "trades": "TRADES", "mart": "MART", "pgd-20": "PGD-20", "fgsm": "FGSM", "cw-30": "CW-30"},
    **{"autoattack": "AutoAttack", TOGETHER: "PGD-20 and CW-30"},
    **{"pgd-20 from standard": "from AT", "pgd-20 from natural": "from natural training"},
}
"""As the figure says them."""


def draw(overall: pd.DataFrame, failed: Collection[str] = ()) -> plt.Figure:
    """Draw a panel per part: accuracies with their 95 % intervals.

    Args:
        overall: As :func:`summary` returns it, of one kind of weights.
        failed: Kinds of networks that are at chance without attack.
    """
    parts = list(dict.fromkeys(overall["part"]))
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    options = {"figsize": (6.5 * columns, 4.2 * rows), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, **options)
    for spare in axes.flat[len(parts) :]:
        spare.set_visible(False)
    for ax, part in zip(axes.flat, parts, strict=False):
        found = overall[overall["part"] == part].set_index(["kind", "attack"])[["accuracy", "low", "high"]]
        kinds = list(dict.fromkeys(found.index.get_level_values("kind")))
        if part == "white":
            attacks = ["clean", *PAPERS, "autoattack"]
            groups, series = [NAMES.get(a, a) for a in attacks], {k: [(k, a) for a in attacks] for k in kinds}
        elif part == "black":
            attacks = ["pgd-20", *(f"pgd-20 from {surrogate}" for surrogate in reversed(SURROGATES))]
            groups = ["on itself", *(NAMES[attack] for attack in attacks[1:])]
            series = {kind: [(kind, attack) for attack in attacks] for kind in kinds}
        elif part == "ablations":
            groups = [NAMES.get(kind, kind) for kind in kinds]
            series = {attack: [(kind, attack) for kind in kinds] for attack in ("pgd-20", TOGETHER)}
        else:
            groups = [f"{100 * share:.0f} %" for share in (0, *NOISES)]
            series = {m: [(noise_kind(m, s), "pgd-20") for s in (0, *NOISES)] for m in ("standard", "mart")}
        cells = {NAMES[name]: 100 * found.loc[keys].to_numpy() for name, keys in series.items()}
        marked = {NAMES[name]: [kind in failed for kind, _ in keys] for name, keys in series.items()}
        _bars(ax, groups, cells, marked, lying=part == "ablations")
        ax.set_title(TITLES[part])
    return figure


TITLES = {
    "white": "Attacks on the networks themselves",
    "black": "PGD-20 on another network",
    "ablations": "Parts of MART",
    "noise": "PGD-20 by share of wrong labels in training",
}


def _bars(
    ax: plt.Axes, groups: Sequence[str], cells: dict[str, np.ndarray], failed: dict[str, list[bool]], *, lying: bool
) -> None:
    """Draw a group of bars per name, in it one per series: value, lower and upper end of the interval."""
    places, width = np.arange(len(groups)), 0.8 / len(cells)
    colours = {"AT": "0.6", "TRADES": CLEAN, "MART": ROBUST, "PGD-20": CLEAN, "PGD-20 and CW-30": ROBUST}
    for i, (name, (value, low, high)) in enumerate((name, values.T) for name, values in cells.items()):
        at = places + (i - (len(cells) - 1) / 2) * width
        reach = np.nan_to_num([value - low, high - value]).clip(0)
        style = {"color": colours[name], "label": name, "error_kw": {"lw": 1, "ecolor": "0.25"}}
        if lying:
            ax.barh(at, value, 0.92 * width, xerr=reach, **style)
        else:
            ax.bar(at, value, 0.92 * width, yerr=reach, **style)
        for place, end in ((p, e) for p, e, f in zip(at, high, failed[name], strict=True) if f):
            where = {"x": end, "y": place, "va": "center"} if lying else {"x": place, "y": end, "ha": "center"}
            ax.text(**where, s=" at chance" if lying else "at chance\nwithout attack", fontsize="small")
    if lying:
        ax.set_yticks(places, groups)
        ax.invert_yaxis()
    else:
        ax.set_xticks(places, groups)
    ax.set(**{"xlabel" if lying else "ylabel": "accuracy, %"})
    ax.tick_params(axis="y" if lying else "x", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    if lying:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        ax.margins(y=0.4)  # room for the legend
        ax.legend(frameon=False, loc="upper right")


def _parser() -> argparse.ArgumentParser:
    made = parser(__file__, __doc__, datasets=None, sizes=SETUPS)
    made.add_argument("--keep", action="store_true", help="keep stored rows of networks that weren't measured")
    made.add_argument("--variants", nargs="+", choices=ABLATIONS, default=list(ABLATIONS), help="in the part ablations")
    made.add_argument("--stand-in", action="store_true", help="use synthetic images, to try the script")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    made.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods in the parts white and black"
    )
    made.add_argument("--variant-seeds", type=whole, default=1, help="trainings of each kind for ablations and noise")
    made.add_argument("--compile", action="store_true", help="compile the network in training: faster on a GPU")
    return made


if __name__ == "__main__":
    main()
