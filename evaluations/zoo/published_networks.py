"""Networks that other people trained and published, class by class, ranked by their mean and by their worst class.

    python evaluations/zoo/published_networks.py --root data --checkpoints checkpoints
    python evaluations/zoo/published_networks.py --size full --root data --model-dir models

Audits every network of --checkpoints under the ladder ``standard``: at the radius that all networks of a data set are
compared at, and at that of its training. Then gaps, worst class, Temperature-PGD and margin beside PGD, and claims 2 to
5 of Tian et al., by how the networks were trained: adversarially, provably or naturally. With --model-dir, those of
RobustBench's models whose files are there, in its layout, have a leaderboard of their own, and a page; nothing is
downloaded. CIFAR-100 is told by its 20 superclasses. The worst class is measured on other images than those on which it
was chosen. Intervals are over images drawn anew, of a family over its networks. Where a class has fewer than 20 images,
as SVHN's, nothing is claimed. Audits are kept in --store: a run that was stopped goes on, and --finished shows what is
there of it, each network under the attacks that are finished.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from claims.diagnosis import held_out_gap
from lib.data import load
from lib.experiment import absent, command, parser, path_of, store_of, timed, whole, write
from lib.published import Published, catalog, load_published
from lib.published_claims import Audited, by_board, by_family, measures

import art_classwise as acw

ATTACKS = {"tiny": ["fgsm", "pgd-20", "margin-20", "tpgd5-20"], "quick": "standard", "full": "standard"}
N = {"tiny": 40, "quick": 1000, "full": None}
LEAST = 20
"""Of fewer images per class nothing is claimed, at quick size and above."""
RADII = {"cifar10": "Linf:2/255", "mnist": "Linf:0.1", "stl10": "Linf:2/255", "svhn": "Linf:0.01"}
"""The radius at which all networks of a data set are compared; of others that of their training."""
LARGE = (
    *("cifar10-resnet20", "cifar10-resnet20-nat", "cifar10-resnet20-at8", "cifar100-resnet20-nat"),
    *("cifar100-resnet20-at8", "mnist-smallcnn-trades", "mnist-lenet5-natural", "stl10-cnn-bn"),
)
"""Networks that take long, and are tried on fewer images at quick size."""


@dataclass(frozen=True)
class Entry:
    """What is audited: a network at a radius, on so many images, all if None."""

    name: str
    network: Published
    threat: str
    n: int | None

    @property
    def is_main(self) -> bool:
        """Whether this is the radius of its training, or of a natural network the only one."""
        return self.network.family == "natural" or self.threat == self.network.threat


def main(argv: Sequence[str] | None = None) -> None:
    """Audit, write the tables."""
    made = parser(__file__, __doc__, datasets=None)
    made.add_argument("--images", type=whole, help="at most so many images per network")
    made.add_argument("--large", type=whole, default=250, help="at quick size, at most so many per large network")
    made.add_argument("--networks", nargs="+", help="only these; all of --checkpoints if absent")
    made.add_argument(
        "--finished",
        action="store_true",
        help="only what is in --store, on as many images as are there: nothing is computed",
    )
    made.add_argument("--model-dir", help="folder of RobustBench's weights")
    made.add_argument("--dataset", default="cifar10", choices=("cifar10", "cifar100", "imagenet"), help="RobustBench's")
    arguments = made.parse_args(argv)
    try:
        known = catalog(arguments.checkpoints)
    except acw.InputError as error:
        sys.exit(f"error: {error}")
    if unknown := set(arguments.networks or ()) - known.keys():
        sys.exit(f"error: there is no network {', '.join(sorted(unknown))}, only {', '.join(known)}")
    asked = arguments.networks or [name for name, network in known.items() if network.file]
    boards: dict[str, list[Audited]] = {}
    for entry in entries({name: known[name] for name in asked}, arguments.size, arguments.images, arguments.large):
        try:
            with timed(f"{entry.name}, {entry.threat}"):
                one = audited(entry, arguments)
        except (acw.InputError, FileNotFoundError) as error:
            print(f"left out: {entry.name}: {error}", file=sys.stderr, flush=True)
            continue
        boards.setdefault(one.board, []).append(one)
    if arguments.model_dir and (found := robustbench(arguments)):
        boards[f"RobustBench: {found[0].board}"] = found
    if not boards:
        absent("no network is available: give --checkpoints or --model-dir (RobustBench's weights), and --root")
    table = pd.concat([leaderboard(networks).assign(board=board) for board, networks in boards.items()])
    for column in ("training", "source"):
        table[column] = [getattr(known[name], column) if name in known else "" for name in table["model"]]
    least = 1 if arguments.size == "tiny" else LEAST
    large = {board: [one for one in of if one.n >= least * len(one.names)] for board, of in boards.items()}
    claimed = [one for networks in large.values() for one in networks if one.family and one.is_main]
    measured = [(one, claim) for one in claimed for claim in measures(one)]
    told = [{"model": one.name, "family": one.family, **claim.row()} for one, claim in measured]
    claims = [*by_board({board: of for board, of in large.items() if of}), *by_family(measured)]
    tables = {"": table, "classes": classes(boards), "networks": pd.DataFrame(told)}
    write(__file__, arguments, tables, claims, draw(table))


def entries(known: Mapping[str, Published], size: str, most: int | None = None, large: int = 250) -> list[Entry]:
    """Return what is audited: each network at the radius of its data set's comparison, and at that of its training.

    Args:
        known: Networks by name.
        size: ``"tiny"``, ``"quick"`` or ``"full"``.
        most: Limit to the number of images.
        large: Limit at quick size to that of :data:`LARGE` networks.
    """
    found = []
    for name, network in known.items():
        limits = (N[size], most, large if size == "quick" and name in LARGE else None)
        n = min((limit for limit in limits if limit is not None), default=None)
        common = RADII.get(network.dataset, network.threat)
        own = common if network.family == "natural" else network.threat
        found += [Entry(name, network, threat, n) for threat in dict.fromkeys((common, own))]
    return found


def images(dataset: str, root: str | None, n: int | None) -> acw.Dataset:
    """Return test images, drawn in proportion to the classes: fewer are some of more. Of SVHN 40 do, to try it."""
    smoke = Path(root or ".") / "svhn_test40.npz"
    if dataset == "svhn" and smoke.is_file():
        return replace(acw.load_dataset(smoke, "test", classes="svhn"), name="svhn")
    return load(dataset, "test", root, n)


def audited(entry: Entry, arguments: Any) -> Audited:
    """Return the outcomes of all attacks on one network; what is in the store is read.

    Raises:
        InputError: Its weights or images are absent or don't fit; for the weights also FileNotFoundError.
    """
    data = images(entry.network.dataset, arguments.root, entry.n)
    classifier = load_published(entry.name, arguments.checkpoints or "checkpoints")
    name = f"{entry.name}-{entry.threat.replace(':', '-').replace('/', '-')}"
    folder = store_of(arguments) / "published"
    if arguments.finished:
        result = stored(folder, name)
    else:
        made = acw.ClassWiseAudit(
            entry.threat,
            ATTACKS[arguments.size],
            store=folder / f"{name}-{len(data)}",
            verbose=False,
            command=command(__file__, arguments),
        )
        result = made.evaluate({entry.name: classifier}, data)
    norms = acw.metrics.head_weight_norms(classifier)
    return Audited(entry.name, result, entry.network.family, norms, is_main=entry.is_main)


def stored(folder: Path, name: str) -> acw.AuditResult:
    """Return, of the audits of a network at a radius, the one with most attacks, and of these with most images.

    Raises:
        InputError: There is none.
    """
    found = []
    for place in sorted(folder.glob(f"{name}-*")):
        if not place.name.removeprefix(f"{name}-").isdigit():
            continue  # of another radius
        with suppress(acw.InputError):  # it was stopped before anything was finished
            found.append(acw.read_audit(place, partial=True))
    if not found:
        raise acw.InputError(f"No audit of it lies in {folder}.")
    return max(found, key=lambda one: (len(one.attacks), one.outcomes["example"].nunique()))


def robustbench(arguments: Any) -> list[Audited]:
    """Return the outcomes of RobustBench's models whose files are at hand, and write them as a page."""
    models = zoo(arguments.model_dir, arguments.dataset)
    if not models:
        print(f"No model of RobustBench's lies in {arguments.model_dir}.", flush=True)
        return []
    data = load(arguments.dataset, "test", arguments.root, N[arguments.size])
    made = acw.ClassWiseAudit(
        None,
        ATTACKS[arguments.size],
        worst_case=True,
        store=store_of(arguments) / f"robustbench-{arguments.dataset}",
        verbose=False,
        command=command(__file__, arguments),
    )
    result = made.evaluate(models, data, optional=list(models))
    page = path_of(__file__, arguments, "robustbench", ".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    result.to_html(page)
    print(page)
    told = {model: acw.zoo.published(model, arguments.dataset, "Linf") for model in result.models}
    return [Audited(m, result, published=None if of is None else of.robust) for m, of in told.items()]


def zoo(model_dir: str, dataset: str) -> dict[str, Any]:
    """Return functions that load the models whose files are all in a folder, by their names."""
    table = acw.zoo.robustbench_table(dataset, "Linf", model_dir)
    return {
        name: partial(acw.load_robustbench, name, dataset, "Linf", model_dir) for name in table.index[table["here"]]
    }


def leaderboard(networks: Sequence[Audited]) -> pd.DataFrame:
    """Return a row per network, the one with the best worst class first, with its ranks by mean and by worst class.

    Columns: fractions ``clean`` and ``mean``, over classes, the latter under all attacks; ``worst_class``, the accuracy
    of it, ``held_out``, with its interval, and ``worst``, the plain minimum; ``gap`` of the best to it, held out; means
    under each attack; and, of RobustBench's models, what is published of them.
    """
    rows = []
    for one in networks:
        (y, right), c = one.withstood(), len(one.names)
        worst = acw.metrics.worst_class(y, right, c, classes=one.names)
        spread = acw.metrics.disparity(one.accuracies(right))
        row = {"dataset": one.result.manifest.examples.dataset, "threat": str(one.result.threat), "model": one.name}
        row |= {"family": one.family, "n": one.n, "classes": c, "clean": one.accuracies(one.clean).mean()}
        row |= {"mean": one.accuracies(right).mean(), "worst_class": worst["class"], "worst": worst["naive"]}
        row |= {"held_out": worst["accuracy"], "worst_low": worst["low"], "worst_high": worst["high"]}
        row |= {
            "attacks": ", ".join(one.result.attacks),
            "gap": held_out_gap(y, right),
            "sd": spread["sd"],
            "gini": spread["gini"],
        }
        if not one.result.manifest.worst_case:  # else an attack's outcomes are of those before it, too
            row |= {f"mean, {a}": one.accuracies(one.withstood(a)[1]).mean() for a in one.result.attacks}
        if one.published is not None:
            row["RobustBench: AutoAttack, 10,000 images"] = one.published
        rows.append(row)
    table = pd.DataFrame(rows)
    table["rank by mean"] = table["mean"].rank(ascending=False, method="min").astype(int)
    table["rank by worst class"] = table["held_out"].rank(ascending=False, method="min").astype(int)
    return table.sort_values(["rank by worst class", "rank by mean"], kind="stable")


def classes(boards: Mapping[str, Sequence[Audited]]) -> pd.DataFrame:
    """Return accuracies with intervals by network, attack and class, and by group where these stand for classes."""
    parts = []
    for board, networks in boards.items():
        for one in networks:
            by_class = one.result.by_class()
            tables = [by_class] if one.groups is None else [by_class, one.result.by_group(one.groups)]
            for table in tables:
                of = table.loc[[one.name]]
                kind = str(of.index.names[-1])
                parts.append(of.reset_index().rename(columns={kind: "class"}).assign(board=board, kind=kind))
    return pd.concat(parts)


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw mean and worst class of each network, a picture per leaderboard."""
    boards = list(table.groupby("board", sort=False))
    shares = [len(of) + 2 for _, of in boards]
    figure, axes = plt.subplots(
        *(len(boards), 1),
        figsize=(8.5, 0.3 * sum(shares) + 0.6 * len(boards)),
        squeeze=False,
        layout="constrained",
        height_ratios=shares,
    )
    for ax, (board, of) in zip(axes.flat, boards, strict=True):
        y = np.arange(len(of))[::-1]
        ax.hlines(y, 100 * of["worst_low"], 100 * of["worst_high"], color="0.6", lw=1)
        ax.plot(100 * of["held_out"], y, "o", color=acw.figures.WORST, label="worst class, held out, 95 % interval")
        ax.plot(100 * of["mean"], y, "D", color=acw.figures.ROBUST, label="mean over classes")
        names = zip(of["model"], of["worst_class"], of["n"], strict=True)
        ax.set_yticks(y, [f"{model} ({worst}; n = {n:,})" for model, worst, n in names], fontsize=8)
        ax.set(xlim=(-1, 101), xlabel="robust accuracy under all attacks (%)", ylim=(-0.7, len(of) - 0.3))
        ax.set_title(board, loc="left", fontsize=10, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1.02), ncols=2)
    return figure


if __name__ == "__main__":
    main()
