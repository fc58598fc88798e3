"""Claim 4 of Tian et al.: Temperature-PGD breaks more than PGD, especially after MART and in weak classes.

    python evaluations/claims/temperature_pgd.py --root data --checkpoints checkpoints
    python evaluations/claims/temperature_pgd.py --size full --root data --datasets cifar10

Attack rate (the share of test examples that don't withstand) against 1/T, overall and by class, on networks trained
with standard adversarial training, TRADES and MART, and on published ones; beside it PGD on the margin (the limit of
large 1/T) and, on some examples, AutoAttack. The best 1/T above 1 is chosen on one half of the examples, and its gain
over PGD measured on the other half, in both directions. The guard: plain cross-entropy of logits / T in float32 has a
gradient of exactly zero where the network is confident; art_classwise's TemperaturePGD uses a loss with the same
direction and no such zeros. For 1/T = 50, the script reports how many examples have no gradient, and the attack rate of
both, also on naturally trained networks. Intervals are over seeds; for published networks over resampled test examples.
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
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import Claim, all_trainings, estimated, over_seeds, panels, parser, timed, told_seeds, write
from lib.published import ADVERSARIAL, at_hand
from lib.setups import SIZES, Trainings

import art_classwise as acw
from art_classwise import losses

METHODS = ("standard", "trades", "mart")
GRID = {0.5: "tpgd0.5-20", 1.0: "pgd-20", 2.0: "tpgd2-20", 5.0: "tpgd5-20", 10.0: "tpgd10-20", 50.0: "tpgd50-20"}
"""The attack for each 1/T; the published grid is 2, 5, 10, 50."""
MARGIN, STRONGEST = "margin-20", "autoattack"
SHARP = 50.0
N_AUTOATTACK = {"tiny": 2, "quick": 100, "medium": 100, "full": 1000}
N_PUBLISHED = {"tiny": 40, "quick": 1000, "medium": 1000, "full": None}


class Unguarded(acw.TemperaturePGD):
    """Temperature-PGD on plain cross-entropy of logits / T."""

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return unguarded(logits, y, self.inverse_temperature)


def unguarded(logits: Tensor, y: Tensor, inverse_temperature: float) -> Tensor:
    """Return cross-entropy of logits / T, (n,)."""
    return functional.cross_entropy(inverse_temperature * logits, y, reduction="none")


def main(argv: Sequence[str] | None = None) -> None:
    """Attack, write the tables."""
    arguments = parser(__file__, __doc__, sizes=SIZES, methods=METHODS).parse_args(argv)
    rates: list[pd.DataFrame] = []
    guards: list[dict[str, Any]] = []
    claims: list[Claim] = []
    methods, attacks = arguments.methods, [*GRID.values(), MARGIN]
    for dataset, trainings in all_trainings(arguments):
        with timed(dataset):
            results, some, guarded = [], [], []
            for seed in range(arguments.seeds):
                told = {"dataset": trainings.test.name, "seed": seed}
                results.append(trainings.audit(methods, seed, attacks))
                few = N_AUTOATTACK[arguments.size]
                some.append(trainings.audit(methods, seed, ["pgd-20", MARGIN, STRONGEST], n_examples=few))
                rates += [attack_rates(results[-1]).assign(**told), attack_rates(some[-1]).assign(**told)]
                for method in ("natural", *methods):
                    row = guard(trainings.trained(method, seed), trainings.test, trainings.setup.threat)
                    guarded.append({**told, "network": method, **row})
            guards += guarded
            claims += claims_of(trainings, results, some, pd.DataFrame(guarded), arguments.seeds)
    if not arguments.stand_in:
        size = N_PUBLISHED[arguments.size]
        for name, classifier, data, threat in at_hand(arguments.checkpoints, arguments.root, size, ADVERSARIAL):
            with timed(name):
                audit = acw.ClassWiseAudit(threat, attacks, checks=False, verbose=False)
                result = audit.evaluate({name: classifier}, data)
                rates.append(attack_rates(result).assign(dataset=data.name))
                guards.append({"dataset": data.name, "network": name, **guard(classifier, data, threat)})
                n = f"n = {len(data):,} test images, interval over them"
                claims.append(gain_claim(f"{name}, {threat}", [broken(result, name)], n))
    table = pd.concat(rates)
    figures = {str(dataset): draw(of) for dataset, of in table.groupby("dataset", sort=False)}
    write(__file__, arguments, {"": table, "guard": pd.DataFrame(guards)}, claims, figures)


def claims_of(
    trainings: Trainings,
    results: Sequence[acw.AuditResult],
    some: Sequence[acw.AuditResult],
    guarded: pd.DataFrame,
    seeds: int,
) -> list[Claim]:
    """Return what was seen on one data set."""
    n = f"n = {len(trainings.test):,} test images, {told_seeds(seeds)}"
    by_method = {method: [broken(result, method) for result in results] for method in results[0].models}
    claims = [gain_claim(f"{trainings.told}, {method}", seen, n) for method, seen in by_method.items()]
    if {"standard", "mart"} <= by_method.keys():
        claims += claims_of_mart(trainings, by_method, some, n)
    sharp = guarded[guarded["network"] == "natural"]
    missing = 100 * (sharp["zero gradients, unguarded"] - sharp["zero gradients, guarded"]).to_numpy()
    claims.append(
        Claim(
            f"4. Without the guard, 1/T = {SHARP:g} has no gradient on confident examples",
            f"{trainings.told}, natural",
            "share of test examples without gradient, unguarded minus guarded",
            *over_seeds(missing, within=(-100, 100)),
            n=f"n = {len(trainings.test):,} test images, {told_seeds(seeds, examples=False)}",
            least=1,
        )
    )
    return claims


def claims_of_mart(
    trainings: Trainings,
    by_method: Mapping[str, Sequence[tuple[np.ndarray, ...]]],
    some: Sequence[acw.AuditResult],
    n: str,
) -> list[Claim]:
    """Return what was seen of MART beside standard adversarial training."""
    seeds = len(some)

    def more(seed: int, rows: np.ndarray) -> float:
        mart, standard = (gain(*(v[rows] for v in by_method[m][seed])) for m in ("mart", "standard"))
        return 100 * (mart - standard)

    def spread(seed: int, rows: np.ndarray) -> float:
        y, plain, sharp = (v[rows] for v in by_method["mart"][seed])
        return 100 * (wider(y, sharp[:, list(GRID).index(5.0) - 2]) - wider(y, plain))

    labels = [seen[0] for seen in by_method["mart"]]
    n_few = f"n = {some[0].manifest.examples.n:,} test images, {told_seeds(seeds, examples=False)}"
    over = [
        100 * (robust(result, m, "pgd-20") - robust(result, m, STRONGEST))
        for result in some
        for m in ("mart", "standard")
    ]
    return [
        Claim(
            "4. It gains more after MART than after standard adversarial training",
            f"{trainings.told}, mart and standard",
            "gain of the best 1/T above 1 over PGD, held out, mart minus standard",
            *estimated([partial(more, s) for s in range(seeds)], labels, within=(-100, 100)),
            n=n,
            least=0.5,
        ),
        Claim(
            "4. It makes the classes more unequal than PGD does",
            f"{trainings.told}, mart",
            "standard deviation of class robust accuracies under 1/T = 5 minus under PGD",
            *estimated([partial(spread, s) for s in range(seeds)], labels, within=(-50, 50)),
            n=n,
            least=0.5,
        ),
        Claim(
            "4. PGD overstates MART more than standard adversarial training",
            f"{trainings.told}, mart and standard",
            "accuracy under PGD minus under AutoAttack, mart minus standard",
            *over_seeds(np.array(over[::2]) - np.array(over[1::2]), within=(-100, 100)),
            n=n_few,
            least=1,
            published="6–8 (PGD-20 minus AutoAttack, MART)" if trainings.test.name == "cifar10" else "",
        ),
    ]


def gain_claim(where: str, seen: Sequence[tuple[np.ndarray, ...]], n: str) -> Claim:
    """Return by how much the best temperature breaks more than PGD on one network."""

    def points(of: tuple[np.ndarray, ...], rows: np.ndarray) -> float:
        return 100 * gain(*(values[rows] for values in of))

    return Claim(
        "4. Temperature-PGD breaks more than PGD",
        where,
        "attack rate of the best 1/T above 1 minus that of PGD, held out",
        *estimated([partial(points, of) for of in seen], [of[0] for of in seen], within=(-100, 100)),
        n=n,
        least=0.5,
    )


def broken(result: acw.AuditResult, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (n,), and whether each example was broken by PGD, (n,), and for each 1/T above 1, (n, 4)."""
    rows = {t: result.rows(model, attack) for t, attack in GRID.items() if t >= 1}
    broke = np.stack([~of["withstood"].to_numpy() for of in rows.values()], axis=1)
    return rows[1.0]["label"].to_numpy(), broke[:, 0], broke[:, 1:]


def gain(y: np.ndarray, plain: np.ndarray, sharp: np.ndarray) -> float:
    """Return what the best 1/T adds to PGD's attack rate: chosen on one half of each class, measured on the other.

    Args:
        y: Labels (n,).
        plain: Whether PGD broke each example (n,).
        sharp: Whether each temperature did (n, temperatures).
    """
    order = np.argsort(np.random.default_rng(0).permutation(len(y)) + len(y) * y)  # by class, at random within
    first = np.zeros(len(y), dtype=bool)
    first[order[::2]] = True
    gains = []
    for chosen, measured in ((first, ~first), (~first, first)):
        best = sharp[chosen].mean(0).argmax()
        gains.append(sharp[measured, best].mean() - plain[measured].mean())
    return float(np.mean(gains))


def wider(y: np.ndarray, broke: np.ndarray) -> float:
    """Return the standard deviation over classes of the share of examples not broken."""
    return float(np.std([1 - broke[y == k].mean() for k in np.unique(y)]))


def robust(result: acw.AuditResult, model: str, attack: str) -> float:
    """Return the mean class robust accuracy."""
    return float(result.class_table(model, attack)["robust"].mean())


def attack_rates(result: acw.AuditResult) -> pd.DataFrame:
    """Return attack rates with intervals by network, attack and class, and the mean over classes as class ``mean``."""
    temperature = {attack: t for t, attack in GRID.items()} | {MARGIN: np.inf}
    parts = []
    for model in result.models:
        for attack in result.attacks:
            table = result.class_table(model, attack)
            rates = pd.DataFrame({"n": table["n"], "attack rate": 1 - table["robust"]})
            rates["low"], rates["high"] = 1 - table["robust_high"], 1 - table["robust_low"]
            rates.loc["mean"] = [table["n"].sum(), 1 - table["robust"].mean(), np.nan, np.nan]
            told = {"network": model, "attack": attack, "1/T": temperature.get(attack, np.nan)}
            parts.append(rates.rename_axis("class").reset_index().assign(**told))
    return pd.concat(parts)


def guard(classifier: Any, data: acw.Dataset, threat: str) -> dict[str, float]:
    """Return the share of examples without gradient and the attack rate at the sharpest 1/T, unguarded and guarded."""
    few = data if len(data) <= 1000 else data.hold_out(1000)[1]
    options = {
        "eps": acw.ThreatModel.parse(threat).eps,
        "inverse_temperature": SHARP,
        "early_stop": True,
        "verbose": False,
    }
    attacks = {"unguarded": partial(Unguarded, **options), "guarded": partial(acw.TemperaturePGD, **options)}
    result = acw.ClassWiseAudit(threat, attacks, checks=False, verbose=False).evaluate({"net": classifier}, few)
    row = {"n": len(few), "1/T": SHARP}
    for name, loss in (("unguarded", unguarded), ("guarded", losses.soft_margin)):
        row[f"zero gradients, {name}"] = zero_gradients(classifier, few, partial(loss, inverse_temperature=SHARP))
        row[f"attack rate, {name}"] = 1 - robust(result, "net", name)
    return row


def zero_gradients(classifier: Any, data: acw.Dataset, loss: Any) -> float:
    """Return the share of examples that the network gets right, at which the loss has a gradient of exactly zero."""
    module, zero, right = classifier.model.eval(), 0, 0
    for rows in np.array_split(np.arange(len(data)), -(-len(data) // 250)):
        x = torch.from_numpy(np.asarray(data.x[rows])).to(classifier.device).requires_grad_()
        y = torch.from_numpy(data.y[rows]).to(classifier.device)
        logits = module(x)
        (gradient,) = torch.autograd.grad(loss(logits, y).sum(), x)
        correct = logits.argmax(1) == y
        right += int(correct.sum())
        zero += int(((gradient.flatten(1) == 0).all(1) & correct).sum())
    return zero / right if right else float("nan")


def draw(rates: pd.DataFrame) -> plt.Figure:
    """Draw the attack rate of the classes and their mean against 1/T, a picture per network (of the first seed)."""
    if "seed" in rates:
        rates = rates[rates["seed"].fillna(0) == 0]
    rates = rates[rates["1/T"].notna()].drop_duplicates(["dataset", "network", "attack", "class"])
    groups = list(rates.groupby(["dataset", "network"], sort=False))
    figure, axes = panels(len(groups), height=4.5)
    for ax, ((dataset, network), table) in zip(axes, groups, strict=True):
        wide = 100 * table.pivot(index="1/T", columns="class", values="attack rate")
        x = np.arange(len(wide))
        classes = wide.drop(columns="mean")
        weakest = classes.loc[1.0].idxmax()
        ax.plot(x, classes.drop(columns=weakest), color="0.7", lw=0.8)
        ax.plot(x, classes[weakest], color=acw.figures.WORST, label=f"weakest under PGD: {weakest}")
        ax.plot(x, wide["mean"], color="black", ls="--", marker="o", ms=3, label="mean over classes")
        ax.set_xticks(x, ["∞ (margin)" if np.isinf(t) else f"{t:g}" for t in wide.index])
        ax.set(xlabel="1/T; 1 is PGD", ylabel="attack rate (%)")
        ax.set_title(f"{dataset}, {network}", loc="left", fontsize=10, weight="bold")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
