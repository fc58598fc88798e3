"""Do class policies help the worst class? Each policy with standard adversarial training, TRADES and MART, over seeds.

    python evaluations/claims/class_policies.py
    python evaluations/claims/class_policies.py --datasets mnist --root data
    python evaluations/claims/class_policies.py --size full --root data

All policies have the published defaults, with warm-ups and WAT's and CFOL's rates scaled to the length of a training.
FRL and FAAL fine-tune, as in their papers: they start from the network that was trained without a policy and with the
same seed; "fine-tuning" is the control, FRL's training without FRL. "FAWA" is CFA's weight averaging alone. "weight 2"
doubles the weight, and "budget 1.25" enlarges the radius, of the class that is weakest on validation examples without a
policy. All trainings hold out the same validation examples. CFA divides losses with a second term by about 1 + beta,
and WAT multiplies losses by 2 C / (C + 1): learning rate and weight decay compensate for that. BAT, which is an
objective itself, is compared with TRADES, whose recipe it uses.

An example counts as robust if it withstands PGD-20 on cross-entropy and on the margin loss (steps of a quarter of the
radius, random start), since MART looks stronger under the first than it is. The worst class is chosen on half of the
test examples and measured on the other half, so that the choice doesn't bias it. rho is the relative change of the
worst class minus the relative loss of the mean over classes, both against the training without a policy. Intervals are
over seeds, with the same held-out and test examples, so they don't include the sampling error of the test set; with one
seed, the claims' intervals are over resampled test examples. Among dozens of intervals some exclude 0 by chance: p is
from a paired t test over seeds, adjusted by Holm's method for all comparisons on a data set.

Sizes: quick uses digits (or MNIST on request), full (a GPU) CIFAR-10. Interrupted runs resume.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, estimated, over_seeds, parser, shown, timed, told_seeds, write
from lib.setups import SIZES as PLAIN_SIZES
from lib.setups import Setup, Trainings

import art_classwise as acw
from art_classwise.trainers import METHODS
from art_classwise.trainers.recipes import Recipe, paper_recipe

P = acw.policies
OBJECTIVES = ("standard", "trades", "mart")
ATTACKS = ("pgd-20", "margin-20")
MEASURES = ("clean", "robust", "worst", "worst held out")
NONE = "none"
FINE_TUNED = {"fine-tuning": 0.1, "FRL": 0.1, "FAAL": 0.2}
"""What fine-tunes, with its learning rate relative to the training's."""


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
    },
    "full": {"cifar10": _size("full", "cifar10", epochs=110, n_validation=1000, fine_tune=40, recipe="paper")},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and attack whatever isn't in the store yet; write the tables."""
    made = parser(__file__, __doc__, datasets=tuple(dict.fromkeys(d for known in SIZES.values() for d in known)))
    arguments = made.parse_args(argv)
    tables: list[pd.DataFrame] = []
    claims: list[Claim] = []
    default = ("cifar10",) if arguments.size == "full" else ("digits",)
    for _, trainings in all_trainings(arguments, default=default, sizes=SIZES, part="policies"):
        study = Study(trainings)
        jobs = [(o, p, s) for s in range(arguments.seeds) for o in OBJECTIVES for p in (NONE, *study.policies)]
        jobs += [("bat", NONE, s) for s in range(arguments.seeds)]
        for number, job in enumerate(jobs):
            with timed(f"{number + 1}/{len(jobs)} {' '.join(map(str, job))}"):
                study.run(*job)
        tables.append(with_rho(pd.DataFrame([study.run(*job) for job in jobs])))
        claims += claims_of(study, tables[-1])
        print(readable(tables[-1]).to_string(index=False))
    summaries = [summary(runs) for runs in tables]
    write(__file__, arguments, {"": pd.concat(summaries), "runs": pd.concat(tables)}, claims, draw(summaries))


class Study:
    """The trainings of one data set with and without policies.

    Args:
        trainings: Its data, network and recipes.
    """

    def __init__(self, trainings: Trainings) -> None:
        assert isinstance(trainings.setup, Size)
        self.trainings, self._size = trainings, trainings.setup
        self._train, self._validation = trainings.train.hold_out(self._size.n_validation)
        epochs, n, eps = self._size.epochs, len(self._train), self._size.eps
        self.policies: dict[str, Callable[[int], Any]] = {
            "weight 2": lambda weakest: P.Fixed(weights={weakest: 2.0}),
            "budget 1.25": lambda weakest: P.Fixed(budgets={weakest: 1.25 * eps}),
            "CFA": lambda _: P.CFA(begin_after=max(1, round(epochs * 10 / 200)), fawa_start=max(1, epochs // 4)),
            "DAFA": lambda _: P.DAFA(warmup=max(1, round(epochs * 70 / 110))),
            "FAWA": lambda _: P.CFA(ccm=False, ccr=False, fawa_start=max(1, epochs // 4)),
            "fine-tuning": lambda _: None,
            "FRL": lambda _: P.FRL(),
            "WAT": lambda _: P.WAT(eta=0.1 * 100 / epochs),
            "FAAL": lambda _: P.FAAL(),
            "CFOL": lambda _: P.CFOL(eta=2e-6 * 150 * 50_000 / (epochs * n)),
        }

    def _folder(self, objective: str, policy: str, seed: int) -> Path:
        return self.trainings.folder / f"{objective}-{policy.replace(' ', '-')}-{seed}"

    def run(self, objective: str, policy: str, seed: int) -> dict[str, Any]:
        """Return what a training gives on the test set; it is trained if it isn't in the store."""
        folder = self._folder(objective, policy, seed)
        held = folder / "result.json"
        if held.exists():
            return json.loads(held.read_text())
        recipe = self._recipe(objective)
        module, chosen = self.trainings.network(seed), None
        if policy != NONE:
            base = self._folder(objective, NONE, seed)
            weakest = json.loads((base / "result.json").read_text())["weakest on validation"]
            chosen = self.policies[policy](weakest)
            if policy in FINE_TUNED:
                module.load_state_dict(torch.load(base / "weights.pt", weights_only=True, map_location="cpu"))
                recipe = recipe.override(
                    epochs=2 if policy == "FAAL" else self._size.fine_tune, lr=recipe.lr * FINE_TUNED[policy]
                )
        if policy in ("CFA", "FAWA"):
            recipe = _rescaled(recipe, 1 + (recipe.beta or 0.0))
        elif policy == "WAT":
            recipe = _rescaled(recipe, (len(self._train.classes) + 1) / (2 * len(self._train.classes)))
        history, module = self._fit(recipe, module, chosen, seed, folder)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "weights.pt")
        result = {"dataset": self.trainings.test.name, "objective": objective, "policy": policy, "seed": seed}
        result |= self._attacked(module, folder) | {"n": len(self.trainings.test), "threat": self._size.threat}
        by_class = history.iloc[-1][[f"val_robust_{k}" for k in range(len(self._train.classes))]]
        result["weakest on validation"] = int(np.nanargmin(by_class.to_numpy(dtype=float)))
        held.write_text(json.dumps(result))
        return result

    def seen(self, objective: str, policy: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return labels of the test examples and which of them withstood both attacks, (n,) each, of a run."""
        with np.load(self._folder(objective, policy, seed) / "outcomes.npz") as held:
            return held["labels"], held["withstood"]

    def _recipe(self, objective: str) -> Recipe:
        if self._size.recipe != "paper":
            return self.trainings.recipe(objective)
        recipe = paper_recipe("trades", "wrn-34-10", "cifar10")
        beta = {"standard": None, "mart": 5.0}.get(objective, 6.0)
        decay = ((round(0.91 * self._size.epochs), 0.1), (round(0.96 * self._size.epochs), 0.01))  # DAFA's, of 110
        recipe = replace(recipe, method=objective, beta=beta, decay=decay, compile=None, two_passes=False)
        recipe = replace(recipe, passes=None, precision="auto")
        return recipe.override(epochs=self._size.epochs, steps=self._size.steps)

    def _fit(
        self, recipe: Recipe, module: nn.Module, policy: Any, seed: int, folder: Path
    ) -> tuple[pd.DataFrame, nn.Module]:
        optimizer = recipe.optimizer(module)
        classifier = acw.as_classifier(module, self._train.input_shape, len(self._train.classes), optimizer=optimizer)
        options = recipe.trainer_options(module)
        trainer = METHODS[recipe.method].trainer(classifier, **options, class_policy=policy, seed=seed, verbose=False)
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


def compared(objective: str, policy: str) -> bool:
    """Return whether a training is compared with another one."""
    return policy != NONE or objective == "bat"


def base_of(objective: str) -> str:
    """Return the objective whose training without a policy one is compared with."""
    return "trades" if objective == "bat" else objective


def _base(runs: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return the trainings that one is compared with, by seed."""
    return runs[(runs["objective"] == base_of(objective)) & (runs["policy"] == NONE)].set_index("seed")


def with_rho(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with rho of each against the training without a policy from the same seed.

    NaN where there is nothing to compare with, and where the worst class or the mean of that training is at 0.
    """
    values = []
    for row in runs.to_dict("records"):
        base = _base(runs, row["objective"]).loc[row["seed"]]
        pairs = [one[name] for one in (row, base) for name in ("worst held out", "robust")]
        values.append(acw.metrics.rho(*pairs) if compared(row["objective"], row["policy"]) else np.nan)
    return runs.assign(rho=values)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per objective and policy: means over seeds with 95 % intervals (Student's t), as fractions.

    ``robust`` is the mean class robust accuracy, ``worst`` the plain minimum, ``worst held out`` that of the worst
    class without the bias of a minimum; the changes are to the training without a policy from the same seed, BAT's to
    TRADES. ``p`` is of the change of ``worst held out``, ``p adjusted`` by Holm for all rows.
    """
    rows = []
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        base = _base(runs, objective)
        row: dict[str, Any] = {"dataset": some["dataset"].iloc[0]} if "dataset" in some else {}
        row |= {"objective": objective, "policy": policy, "seeds": len(some), "n": some["n"].iloc[0]}
        by_seed = some.set_index("seed")
        for measure in MEASURES:
            values = by_seed[measure]
            row |= dict(zip((measure, f"{measure} low", f"{measure} high"), over_seeds(values), strict=True))
            change = over_seeds(values - base[measure]) if compared(objective, policy) else (np.nan,) * 3
            names = (f"{measure} change", f"{measure} change low", f"{measure} change high")
            row |= dict(zip(names, change, strict=True))
        row |= dict(zip(("rho", "rho low", "rho high"), over_seeds(by_seed["rho"]), strict=True))
        row["p"] = (
            paired_p(by_seed["worst held out"] - base["worst held out"]) if compared(objective, policy) else np.nan
        )
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(**{"p adjusted": acw.metrics.holm(table["p"])})


def paired_p(changes: pd.Series[float]) -> float:
    """Return p of a paired t test, two-sided; NaN for one seed, or where all changes are the same."""
    if len(changes) < 2 or np.ptp(changes) == 0:
        return float("nan")
    return float(stats.ttest_1samp(changes, 0).pvalue)


def readable(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the summary in per cent, each cell with its interval; the changes to the training without a policy too."""
    rows = []
    adjusted = summary(runs).set_index(["objective", "policy"])["p adjusted"]
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        base = _base(runs, objective)
        by_seed = some.set_index("seed")
        row = {"objective": objective, "policy": policy}
        row |= {name: shown(by_seed[name]) for name in MEASURES}
        if compared(objective, policy):
            changes = {f"{name} change": shown(by_seed[name] - base[name]) for name in MEASURES[1:]}
            row |= changes | {"rho": shown(by_seed["rho"]), "p adjusted": f"{adjusted[objective, policy]:.2g}"}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def claims_of(study: Study, runs: pd.DataFrame) -> list[Claim]:
    """Return what each policy does to the worst class of each objective, on one data set."""
    trainings, claims = study.trainings, []
    adjusted = summary(runs).set_index(["objective", "policy"])["p adjusted"]
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        if not compared(objective, policy):
            continue
        seeds = [int(seed) for seed in some["seed"]]
        pairs = [(study.seen(objective, policy, s), study.seen(base_of(objective), NONE, s)) for s in seeds]
        changes = [partial(worst_change, labels, new, old) for (labels, new), (_, old) in pairs]
        p = adjusted[objective, policy]
        claims.append(
            Claim(
                f"8. {'BAT' if objective == 'bat' else policy} helps the worst class",
                f"{trainings.told}, {'beside TRADES' if objective == 'bat' else objective}",
                "change of the robust accuracy of the worst class, held out"
                + ("" if np.isnan(p) else f" (p adjusted for all comparisons: {p:.2g})"),
                *estimated(changes, [labels for (labels, _), _ in pairs], within=(-100, 100)),
                n=f"n = {len(trainings.test):,} test examples, {told_seeds(len(seeds))}",
                least=2,
            )
        )
    return claims


def worst_change(y: np.ndarray, new: np.ndarray, old: np.ndarray, rows: np.ndarray) -> float:
    """Return by how many points the worst class, held out, is better.

    Args:
        y: Labels (n,).
        new: Whether each example is right, bool (n,).
        old: Whether it was.
        rows: The examples to take, with repeats.
    """
    n_classes = int(y.max()) + 1
    now, before = (acw.metrics.worst_class(y[rows], right[rows], n_classes)["accuracy"] for right in (new, old))
    return 100 * float(now - before)


def draw(summaries: Sequence[pd.DataFrame]) -> plt.Figure:
    """Draw the change of the worst class, held out, with its interval, by policy and objective."""
    figure, axes = plt.subplots(
        1, len(summaries), figsize=(8.5 * len(summaries), 7), squeeze=False, layout="constrained"
    )
    colours = {"standard": acw.figures.CLEAN, "trades": acw.figures.ROBUST, "mart": acw.figures.WORST}
    for ax, table in zip(axes[0], summaries, strict=True):
        names = [*dict.fromkeys(table.loc[table["policy"] != NONE, "policy"]), "BAT, beside TRADES"]
        for i, (objective, colour) in enumerate(colours.items()):
            rows = table[(table["objective"] == objective) & (table["policy"] != NONE)]
            _points(ax, rows, [names.index(p) + 0.24 * (i - 1) for p in rows["policy"]], colour, objective)
        bat = table[table["objective"] == "bat"]
        _points(ax, bat, [len(names) - 1] * len(bat), "0.25", "BAT")
        ax.axvline(0, color="0.6", lw=1, zorder=0)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlabel("change of the worst class's robust accuracy, held out (points)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        base = table[(table["policy"] == NONE) & (table["objective"] != "bat")]
        told = ", ".join(f"{o} {100 * w:.0f} %" for o, w in zip(base["objective"], base["worst held out"], strict=True))
        first = table.iloc[0]
        title = f"{first['dataset']}, {first['seeds']} seeds, n = {first['n']:,}: mean and 95 % interval over seeds"
        ax.set_title(f"{title}\nwithout a policy: {told}; filled: p adjusted below 0.05", loc="left", fontsize="medium")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4, fontsize="small", frameon=False)
    return figure


def _points(ax: plt.Axes, rows: pd.DataFrame, at: Sequence[float], colour: str, label: str) -> None:
    change, low, high = (100 * rows[f"worst held out change{end}"] for end in ("", " low", " high"))
    ax.hlines(at, low, high, color=colour, lw=1.4)
    filled = np.where(rows["p adjusted"] < 0.05, colour, "white")
    ax.scatter(change, at, facecolor=filled, edgecolor=colour, s=36, zorder=3)
    ax.plot([], [], "o-", color=colour, mfc="white", label=label)


if __name__ == "__main__":
    main()
