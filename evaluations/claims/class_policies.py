"""What helps the worst class? Class policies, distillation and fast training beside plain adversarial training.

    python evaluations/claims/class_policies.py
    python evaluations/claims/class_policies.py --objectives trades --policies DAFA WAT "weight 2"
    python evaluations/claims/class_policies.py --datasets mnist --root data
    python evaluations/claims/class_policies.py --size full --root data

All policies (lib/repairs.py) have the published defaults, with warm-ups and WAT's and CFOL's rates scaled to the length
of a training. FRL, FAAL and "spectral" fine-tune, as in their papers: they start from the network that was trained
without a policy and with the same seed; "fine-tuning" is the control, FRL's training without FRL. "spectral throughout"
is that policy from random weights, "FAWA" is CFA's weight averaging alone, "averaging" an exponential moving average of
the weights over about a tenth of the training. "weight 2" doubles the weight, and "budget 1.25" enlarges the radius, of
the class that is weakest on validation examples without a policy. All trainings hold out the same validation examples.
CFA divides losses with a second term by about 1 + beta, and WAT multiplies losses by 2 C / (C + 1): learning rate and
weight decay compensate for that. Balanced softmax does nothing where classes are equally frequent, as here.

Methods that are objectives themselves are compared with another one: BAT, ARD and RSLAD with TRADES, whose network of
the same seed teaches the latter two; Fair-ARD with ARD, ABSLD with RSLAD; N-FGSM, FGSM-RS and FGSM without noise with
standard training. Of these three a table tells which classes catastrophic overfitting hits first, and how weak they
were before.

An example counts as robust if it withstands PGD-20 on cross-entropy and on the margin loss (steps of a quarter of the
radius, random start), since MART looks stronger under the first than it is. The worst class is chosen on half of the
test examples and measured on the other half, so that the choice doesn't bias it. rho is the relative change of the
worst class minus the relative loss of the mean over classes, both against the training without a policy. Accuracies
have intervals over seeds (Student's t); changes have them over seeds and test examples, crossed, and p is that of 0
there. Among dozens of intervals some exclude 0 by chance: p is adjusted by Holm's method for all comparisons on a data
set, and a policy is said to help only where that p is below 0.05. A further table has the differences of the
combinations that no paper has, and of weight 2, to each published policy, adjusted likewise: one is better than all of
them if each of these intervals lies above 0. Of trainings that --known takes from an earlier table only class
accuracies are known ("examples" in the table of runs): their test examples are drawn as binomials, alike for the seeds
of a policy, apart from those of other policies, so that the intervals of differences are rather too wide.

Sizes: quick uses digits (or MNIST, CIFAR-10 on request), full (a GPU) CIFAR-10. Interrupted runs resume. With --keep,
rows of the tables that are of other data sets, objectives or policies stay as they are, but for p, which is adjusted
anew.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, over_seeds, parser, path_of, timed, told_seeds, write
from lib.repair_tables import (
    NONE,
    against_published,
    compared,
    first_hit,
    interval,
    on_drawn_examples,
    on_independent_examples,
    readable,
    summary,
    title_of,
    with_earlier,
    with_rho,
)
from lib.repairs import ALONE, REPAIRS, Length
from lib.setups import SIZES as PLAIN_SIZES
from lib.setups import Setup, Trainings

import art_classwise as acw
from art_classwise.trainers import METHODS
from art_classwise.trainers.recipes import Recipe, paper_recipe

OBJECTIVES = ("standard", "trades", "mart")
ATTACKS = ("pgd-20", "margin-20")
ROWS = {
    "runs": ["objective", "policy", "seed"],
    "": ["objective", "policy"],
    "ours": ["objective", "policy", "against"],
}
"""Columns that tell what a row of a table is of, on one data set, by the end of the file's name."""
NOT_OF_A_RUN = ("rho", "examples", "hardware", "versions", "command")
"""Columns of the table of trainings that aren't one's own result."""


@dataclass(frozen=True)
class Size(Setup):
    """How it is trained with and without policies.

    Attributes:
        n_validation: Held out from the training examples.
        fine_tune: Epochs of FRL's fine-tuning; FAAL's are 2.
    """

    n_validation: int = 200
    fine_tune: int = 6


def _size(size: str, dataset: str, **given: Any) -> Size:
    return Size(**{**asdict(PLAIN_SIZES[size][dataset]), **given})


SIZES = {
    "tiny": {
        "digits": _size("tiny", "digits", n_validation=100, fine_tune=1),
        "mnist": _size("tiny", "mnist", n_validation=100, fine_tune=1),
        "cifar10": _size("tiny", "cifar10", n_validation=100, fine_tune=1),
    },
    "quick": {
        "digits": _size("quick", "digits", epochs=15, fine_tune=5),
        "mnist": _size("quick", "mnist", n_validation=500, fine_tune=3),
        "cifar10": _size(
            *("quick", "cifar10"),
            network="resnet8-stem2",
            epochs=10,
            n_train=5000,
            lr=0.05,
            natural_first=0,
            n_validation=1000,
            fine_tune=3,
        ),
    },
    "full": {"cifar10": _size("full", "cifar10", epochs=110, n_validation=1000, fine_tune=40, recipe="paper")},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and attack whatever isn't in the store yet; write the tables."""
    made = parser(__file__, __doc__, datasets=tuple(dict.fromkeys(d for known in SIZES.values() for d in known)))
    made.add_argument("--objectives", nargs="+", choices=OBJECTIVES, help="default: all")
    made.add_argument("--policies", nargs="+", choices=tuple(REPAIRS), help="default: all")
    made.add_argument("--finished", action="store_true", help="write tables of what is in the store, and train nothing")
    made.add_argument("--known", type=Path, help="table of trainings of this size, which aren't repeated")
    made.add_argument("--alone", nargs="*", choices=tuple(ALONE), help="methods without a policy; default: all")
    arguments = made.parse_args(argv)
    tables: list[pd.DataFrame] = []
    summaries: list[pd.DataFrame] = []
    ours: list[pd.DataFrame] = []
    hit: list[pd.DataFrame] = []
    claims: list[Claim] = []
    default = ("cifar10",) if arguments.size == "full" else ("digits",)
    for _, trainings in all_trainings(arguments, default=default, sizes=SIZES, part="policies"):
        study = Study(trainings)
        if arguments.known is not None:
            study.take(pd.read_csv(arguments.known, dtype={"worst class": str}), all_=arguments.finished)
        jobs = [job for job in jobs_of(arguments) if not arguments.finished or study.has(*job)]
        for number, job in enumerate(jobs):
            with timed(f"{number + 1}/{len(jobs)} {' '.join(map(str, job))}"):
                study.run(*job)
        runs = pd.DataFrame([study.run(*job) for job in jobs])
        runs["examples"] = ["known" if study.paired(*job) else "by class" for job in jobs]
        runs = with_rho(runs)
        told = {"runs": runs, "": summary(runs, study.drawn), "ours": against_published(runs, study.drawn)}
        if arguments.keep:
            told = {
                end: with_earlier(table, path_of(__file__, arguments, end), ROWS[end]) for end, table in told.items()
            }
        tables.append(told["runs"])
        summaries.append(told[""])
        ours.append(told["ours"])
        claims += claims_of(study, summaries[-1], ours[-1])
        hit.append(first_hit(study.fast_histories(jobs), len(trainings.classes)).assign(dataset=trainings.test.name))
        claims += claims_of_collapse(study, hit[-1])
        print(readable(summaries[-1]).to_string(index=False))
    written = {"": pd.concat(summaries), "runs": pd.concat(tables), "ours": pd.concat(ours), "collapse": pd.concat(hit)}
    figures = {str(of["dataset"].iloc[0]): draw(of) for of in summaries}
    write(__file__, arguments, {k: t for k, t in written.items() if len(t)}, claims, figures)


def jobs_of(arguments: Any) -> list[tuple[str, str, int]]:
    """Return objective, policy and seed of the trainings asked for, those first that others are compared with."""
    objectives = arguments.objectives or OBJECTIVES
    policies = arguments.policies or tuple(REPAIRS)
    alone = tuple(ALONE) if arguments.alone is None else arguments.alone
    jobs: dict[tuple[str, str, int], None] = {}
    for seed in range(arguments.seeds):
        for objective in objectives:
            jobs |= dict.fromkeys((objective, policy, seed) for policy in (NONE, *policies))
        for method in alone:
            chain = [method]
            while chain[-1] in ALONE:
                chain.append(ALONE[chain[-1]].beside)
            taught = ["trades"] if ALONE[method].taught else []
            jobs |= dict.fromkeys((objective, NONE, seed) for objective in (*taught, *reversed(chain)))
    return list(jobs)


class Study:
    """The trainings of one data set with and without policies.

    Args:
        trainings: Its data, network and recipes.
    """

    def __init__(self, trainings: Trainings) -> None:
        assert isinstance(trainings.setup, Size)
        self.trainings, self._size = trainings, trainings.setup
        self._train, self._validation = trainings.train.hold_out(self._size.n_validation)
        self._drawn: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}

    def _folder(self, objective: str, policy: str, seed: int) -> Path:
        return self.trainings.folder / f"{objective}-{policy.replace(' ', '-')}-{seed}"

    def has(self, objective: str, policy: str, seed: int) -> bool:
        """Return whether a training is in the store."""
        return (self._folder(objective, policy, seed) / "result.json").exists()

    def run(self, objective: str, policy: str, seed: int) -> dict[str, Any]:
        """Return what a training gives on the test set; it is trained if it isn't in the store."""
        folder = self._folder(objective, policy, seed)
        held = folder / "result.json"
        if held.exists():
            return json.loads(held.read_text())
        recipe, options = self._recipe(objective), self._options(objective, seed)
        module = self.trainings.network(seed)
        if policy != NONE:
            repair, base = REPAIRS[policy], self._folder(objective, NONE, seed)
            weakest = json.loads((base / "result.json").read_text())["weakest on validation"]
            if repair.fine_tune is not None:
                module.load_state_dict(self._plain_weights(objective, seed))
                epochs = 2 if repair.few else self._size.fine_tune
                recipe = recipe.override(epochs=epochs, lr=recipe.lr * repair.fine_tune)
            n = len(self._train)
            steps = recipe.epochs * -(-n // recipe.batch_size)
            length = Length(weakest, recipe.epochs, n, self._size.eps, steps)
            options |= {"class_policy": repair.policy(length), **repair.options(length)}
            factor = repair.rescale(recipe.beta or 0.0, len(self._train.classes))
            recipe = recipe if factor == 1 else _rescaled(recipe, factor)
        history, module = self._fit(recipe, module, options, seed, folder)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "weights.pt")
        history.to_csv(folder / "history.csv", index=False)
        result = {"dataset": self.trainings.test.name, "objective": objective, "policy": policy, "seed": seed}
        result |= self._attacked(module, folder) | {"n": len(self.trainings.test), "threat": self._size.threat}
        by_class = history.iloc[-1][[f"val_robust_{k}" for k in range(len(self._train.classes))]]
        result["weakest on validation"] = int(np.nanargmin(by_class.to_numpy(dtype=float)))
        held.write_text(json.dumps(result))
        return result

    def _plain_weights(self, objective: str, seed: int) -> dict[str, Any]:
        """Return the weights of a training without a policy, which is repeated if a table has told its result only."""
        folder = self._folder(objective, NONE, seed)
        if not (folder / "weights.pt").exists():
            (folder / "result.json").unlink(missing_ok=True)
            self.run(objective, NONE, seed)
        weights: dict[str, Any] = torch.load(folder / "weights.pt", weights_only=True, map_location="cpu")
        return weights

    def take(self, runs: pd.DataFrame, *, all_: bool = True) -> None:
        """Take trainings that a table has and the store hasn't, such as one measured on another machine.

        Args:
            runs: A row per training of this size, as :func:`main` writes them.
            all_: Also those without a policy, whose weights others start from.
        """
        if not all_:
            runs = runs[(runs["policy"] != NONE) | ~runs["objective"].isin(OBJECTIVES)]
        same = runs[(runs["dataset"] == self.trainings.test.name) & (runs["n"] == len(self.trainings.test))]
        for row in same[same["threat"] == self._size.threat].to_dict("records"):
            folder = self._folder(row["objective"], row["policy"], row["seed"])
            if not self.has(row["objective"], row["policy"], row["seed"]):
                folder.mkdir(parents=True, exist_ok=True)
                told = {name: value for name, value in row.items() if name not in NOT_OF_A_RUN}
                (folder / "result.json").write_text(json.dumps(told))

    def drawn(self, objective: str, policy: str, seed: int) -> Mapping[str, np.ndarray]:
        """See :data:`Drawn`; the same examples are drawn for all trainings, but those taken from a table."""
        key = (objective, policy, seed)
        if key not in self._drawn:
            outcomes = self._folder(*key) / "outcomes.npz"
            if outcomes.exists():
                with np.load(outcomes) as held:
                    self._drawn[key] = on_drawn_examples(held["labels"], held["withstood"])
            else:
                test, result = self.trainings.test, self.run(*key)
                accuracies = np.array([result[f"robust {name}"] for name in test.classes])
                sizes = np.bincount(test.y, minlength=len(test.classes))
                self._drawn[key] = on_independent_examples(accuracies, sizes, zlib.crc32(repr(key[:2]).encode()))
        return self._drawn[key]

    def paired(self, objective: str, policy: str, seed: int) -> bool:
        """Return whether a training's outcomes are known example by example."""
        return (self._folder(objective, policy, seed) / "outcomes.npz").exists()

    def fast_histories(self, jobs: Sequence[tuple[str, str, int]]) -> dict[tuple[str, int], pd.DataFrame]:
        """Return the histories of those trainings whose attack has one step, by method and seed."""
        fast = [(o, s) for o, _, s in jobs if o in ALONE and ALONE[o].trainer == "fast"]
        paths = {(o, s): self._folder(o, NONE, s) / "history.csv" for o, s in fast}
        return {key: pd.read_csv(path) for key, path in paths.items() if path.exists()}

    def _options(self, objective: str, seed: int) -> dict[str, Any]:
        """Return options of the trainer beside the recipe's: the method, and who teaches."""
        alone = ALONE.get(objective)
        options: dict[str, Any] = {} if alone is None or alone.method is None else {"method": alone.method}
        if alone is not None and alone.trainer == "fast":
            options |= {"eps_step": None, **alone.options}  # the step is the method's
        if alone is not None and alone.taught:
            teacher = self.trainings.network(seed)
            teacher.load_state_dict(self._plain_weights("trades", seed))
            shape, n_classes = self._train.input_shape, len(self._train.classes)
            options["teacher"] = acw.as_classifier(teacher.eval(), shape, n_classes)
        return options

    def _recipe(self, objective: str) -> Recipe:
        objective = ALONE[objective].trainer or objective if objective in ALONE else objective
        if self._size.recipe != "paper":
            return self.trainings.recipe(objective)
        recipe = paper_recipe("trades", "wrn-34-10", "cifar10")
        beta = 6.0 if objective in ("trades", "bat") else METHODS[objective].beta
        decay = ((round(0.91 * self._size.epochs), 0.1), (round(0.96 * self._size.epochs), 0.01))  # DAFA's, of 110
        recipe = replace(recipe, method=objective, beta=beta, decay=decay, compile=None, two_passes=False)
        recipe = replace(recipe, passes=None, precision="auto")
        return recipe.override(epochs=self._size.epochs, steps=self._size.steps)

    def _fit(
        self, recipe: Recipe, module: nn.Module, options: Mapping[str, Any], seed: int, folder: Path
    ) -> tuple[pd.DataFrame, nn.Module]:
        optimizer = recipe.optimizer(module)
        classifier = acw.as_classifier(module, self._train.input_shape, len(self._train.classes), optimizer=optimizer)
        options = {**recipe.trainer_options(module), **options, "seed": seed, "verbose": False}
        trainer = METHODS[recipe.method].trainer(classifier, **options)
        history = trainer.fit(
            self._train.x,
            self._train.y,
            validation_data=(self._validation.x, self._validation.y),
            **recipe.fit_options(optimizer, len(self._train)),
            checkpoint_dir=folder / "training",
            resume=True,
        )
        return history, classifier.model

    def _attacked(self, module: nn.Module, folder: Path) -> dict[str, Any]:
        """Return clean, robust and worst-class accuracy on the test set, and robust accuracy by class."""
        test = self.trainings.test
        classifier = acw.as_classifier(module.eval(), test.input_shape, len(test.classes))
        audit = acw.ClassWiseAudit(self._size.threat, ATTACKS, checks=False, verbose=False).evaluate(
            {"net": classifier}, test
        )
        rows = audit.rows("net")
        np.savez(folder / "outcomes.npz", labels=rows["label"].to_numpy(), withstood=rows["withstood"].to_numpy())
        table = audit.class_table("net")
        result: dict[str, Any] = {"clean": table["clean"].mean(), "robust": table["robust"].mean()}
        result |= {f"{name} alone": audit.class_table("net", name)["robust"].mean() for name in ATTACKS}
        result |= {"worst": table["robust"].min(), "worst class": str(table["robust"].idxmin())}
        result |= {"worst held out": float(audit.worst_class("net")["accuracy"])}
        return result | {f"robust {name}": float(value) for name, value in table["robust"].items()}


def _rescaled(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe for losses that are divided by a factor: with it SGD takes the same steps."""
    return recipe.override(lr=recipe.lr * factor, weight_decay=recipe.weight_decay / factor)


def claims_of(study: Study, table: pd.DataFrame, ours: pd.DataFrame) -> list[Claim]:
    """Return what each policy does to the worst class, and whether one beats all published ones, on one data set."""
    trainings, claims = study.trainings, []
    measured = "robust accuracy of the worst class, held out"
    n = f"n = {len(trainings.test):,} test examples, "
    for row in table.to_dict("records"):
        objective, policy, p = row["objective"], row["policy"], row["p adjusted"]
        if not compared(objective, policy):
            continue
        alone = ALONE.get(objective)
        place = objective if alone is None else f"beside {title_of(alone.beside)}"
        value, low, high = (100 * row[f"worst held out change{end}"] for end in ("", " low", " high"))
        claims.append(
            Claim(
                f"8. {policy if alone is None else alone.title} helps the worst class",
                f"{trainings.told}, {place}",
                f"change of the {measured}" + ("" if np.isnan(p) else f" (p adjusted for all comparisons: {p:.2g})"),
                *(value, low, high),
                n=n + told_seeds(row["seeds"]),
                least=2,
                p=p,
            )
        )
    for (objective, policy), some in ours.groupby(["objective", "policy"], sort=False) if len(ours) else ():
        closest = some.loc[some["worst held out"].idxmin()]
        of = table[(table["objective"] == objective) & (table["policy"] == policy)].iloc[0]
        # All differences are above 0 if the lowest end is: no allowance for the choice of the closest is needed.
        worst = (100 * some[f"worst held out{end}"].min() for end in ("", " low", " high"))
        claims.append(
            Claim(
                f"8. {policy} helps the worst class more than every published policy, at no cost to the mean",
                f"{trainings.told}, {objective}",
                f"smallest of {len(some)} differences of the {measured}, the one to {closest['against']} (mean over "
                f"classes against no policy: {interval(of, 'robust change')} points)",
                *worst,
                n=n + told_seeds(int(closest["seeds"])),
                least=1,
            )
        )
    return claims


def claims_of_collapse(study: Study, hit: pd.DataFrame) -> list[Claim]:
    """Return whether catastrophic overfitting hits weak classes first, where it came about; over trainings."""
    if not len(hit):
        return []
    ranks = 100 * (0.5 - hit.groupby(["objective", "seed"])["rank before"].mean())
    return [
        Claim(
            "8. Catastrophic overfitting hits weak classes first",
            f"{study.trainings.told}, fast training",
            "by how much more than half of the other classes were stronger before, of the classes hit first",
            *over_seeds(ranks.to_numpy(), within=(-50, 50)),
            n=f"{len(ranks)} trainings in which classes collapse",
            least=10,
        )
    ]


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the change of the worst class on a data set, held out, with its interval, by policy and objective."""
    figure, ax = plt.subplots(figsize=(8.5, 9), layout="constrained")
    colours = {"standard": acw.figures.CLEAN, "trades": acw.figures.ROBUST, "mart": acw.figures.WORST}
    names = list(dict.fromkeys(table.loc[table["policy"] != NONE, "policy"]))
    repaired = table[(table["policy"] != NONE) & table["objective"].isin(list(colours))]
    objectives = [objective for objective in colours if objective in set(repaired["objective"])]
    for i, objective in enumerate(objectives):
        rows, aside = repaired[repaired["objective"] == objective], 0.24 * (i - (len(objectives) - 1) / 2)
        _points(ax, rows, [names.index(p) + aside for p in rows["policy"]], colours[objective], objective)
    alone = table[table["objective"].isin(list(ALONE))]
    if len(alone):
        _points(ax, alone, [len(names) + i for i in range(len(alone))], "0.25", "methods")
    names += [f"{ALONE[o].title}, beside {title_of(ALONE[o].beside)}" for o in alone["objective"]]
    ax.axvline(0, color="0.6", lw=1, zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("change of the worst class's robust accuracy, held out (points)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    base = table[(table["policy"] == NONE) & table["objective"].isin(list(colours))]
    told = ", ".join(f"{o} {100 * w:.0f} %" for o, w in zip(base["objective"], base["worst held out"], strict=True))
    first = table.iloc[0]
    seeds = " to ".join(map(str, sorted({int(table["seeds"].min()), int(table["seeds"].max())})))
    title = f"{first['dataset']}, seeds: {seeds}, n = {first['n']:,}: mean and 95 % interval"
    told = f"{title}\nwithout a policy: {told}\nfilled: p adjusted below 0.05"
    ax.set_title(told, loc="left", fontsize="medium")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=4, fontsize="small", frameon=False)
    return figure


def _points(ax: plt.Axes, rows: pd.DataFrame, at: Sequence[float], colour: str, label: str) -> None:
    change, low, high = (100 * rows[f"worst held out change{end}"] for end in ("", " low", " high"))
    ax.hlines(at, low, high, color=colour, lw=1.4)
    filled = np.where(rows["p adjusted"] < 0.05, colour, "white")
    ax.scatter(change, at, facecolor=filled, edgecolor=colour, s=36, zorder=3)
    ax.plot([], [], "o-", color=colour, mfc="white", label=label)


if __name__ == "__main__":
    main()
