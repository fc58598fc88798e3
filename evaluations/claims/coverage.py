"""Do the intervals cover and do the tests keep their level? Every one of the package, on simulated data sets.

    python evaluations/claims/coverage.py

Each row is an interval or a p value in a setting whose truth is known: how often the 95 % interval holds it, or how
often p is at most 5 % where nothing is to be found. Several values at once (all classes, all models) count as covered
if all are, where the function says that they hold at once, and by their share elsewhere. Needs no network and no data.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import RESULTS, command

from art_classwise import metrics

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
CIFAR10 = np.array([0.524, 0.678, 0.311, 0.318, 0.339, 0.369, 0.376, 0.468, 0.592, 0.576])
REST = [0.8] * 8
GROUPS = ["one"] * 5 + ["other"] * 5
Rng = np.random.Generator
Check = Callable[[Rng], float]


def outcomes(rng: Rng, n: int, *accuracies: Sequence[float] | np.ndarray, shared: float = 0.8) -> tuple[Any, ...]:
    """Return labels, and for each row of class accuracies which of n examples per class are right.

    Latent difficulties are normal, of which all rows share a part of the variance; 1 nests them.
    """
    of = np.broadcast_arrays(*(np.asarray(a, float) for a in accuracies))
    y = np.repeat(np.arange(len(of[0])), n)
    common = np.sqrt(shared) * rng.standard_normal(len(y))
    rows = [common + np.sqrt(1 - shared) * rng.standard_normal(len(y)) < norm.ppf(a)[y] for a in of]
    return y, *rows


def inside(table: Any, truth: Any, low: str = "low", high: str = "high") -> np.ndarray:
    """Return whether each interval of a table holds the truth, but for rounding."""
    found: np.ndarray = (table[low] <= np.asarray(truth) + 1e-9) & (table[high] >= np.asarray(truth) - 1e-9)
    return found


def _wilson(n: int, p: float) -> Check:
    def check(rng: Rng) -> float:
        low, high = metrics.wilson(rng.binomial(n, p, 50), n)
        return float(np.mean((low <= p) & (p <= high)))

    return check


def _by_class(n: int, first: Any, second: Any, shared: float) -> Check:
    def check(rng: Rng) -> float:
        y, a, b = outcomes(rng, n, first, second, shared=shared)
        truth = np.broadcast_to(np.asarray(first) - np.asarray(second), len(np.unique(y)))
        return float(np.mean(inside(metrics.paired_comparison(y, a, b, len(truth)), truth)))

    return check


def _pair(function: Callable[..., Any], n: int, first: Any, second: Any, shared: float, truth: float) -> Check:
    def check(rng: Rng) -> float:
        y, a, b = outcomes(rng, n, first, second, shared=shared)
        return float(inside(function(y, a, b, y.max() + 1), truth))

    return check


def _worst_difference(n: int, first: Any, second: Any, shared: float) -> Check:
    return _pair(metrics.worst_class_difference, n, first, second, shared, np.min(first) - np.min(second))


def _worst(n: int, accuracies: Any) -> Check:
    def check(rng: Rng) -> float:
        y, right = outcomes(rng, n, accuracies)
        return float(inside(metrics.worst_class(y, right, y.max() + 1, repeats=20), np.min(accuracies)))

    return check


def _mean(n: int, accuracies: Any) -> Check:
    def check(rng: Rng) -> float:
        y, right = outcomes(rng, n, accuracies)
        return float(inside(metrics.mean_accuracy(y, right, y.max() + 1), np.mean(accuracies)))

    return check


def _disparity(measure: str, n: int, accuracies: Any) -> Check:
    def check(rng: Rng) -> float:
        y, right = outcomes(rng, n, accuracies)
        found = metrics.disparity_intervals(y, right, y.max() + 1, repeats=100).loc[measure]
        return float(inside(found, metrics.disparity(accuracies)[measure]))

    return check


def _best(m: int, measure: Any, what: str) -> Check:
    """All of m equal models: is any worse than the best, is an interval or a rank wrong?"""

    def check(rng: Rng) -> float:
        y, *right = outcomes(rng, 100, *[np.linspace(0.3, 0.8, 10)] * m)
        found = metrics.compare_with_best(y, np.array(right), 10, measure=measure, repeats=1000)
        if what == "p":
            return float((found["p_adjusted"] <= 0.05).any())
        if what == "ranks":
            return float((found["all_ranks_low"] == 1).all() and (found["all_ranks_high"] == m).all())
        return float(inside(found, 0, "difference_low", "difference_high").all())

    return check


def _chosen(m: int) -> Check:
    def check(rng: Rng) -> float:
        y, *right = outcomes(rng, 100, *[[0.5, *[0.9] * 9]] * m, shared=0.3)
        return float(inside(metrics.best_worst_class(y, np.array(right), 10, repeats=5), 0.5))

    return check


def _order(n: int, first: Any, second: Any, shared: float, tau: float | None) -> Check:
    """Whether the interval holds tau; without a tau, whether p is at most 5 %."""

    def check(rng: Rng) -> float:
        y, a, b = outcomes(rng, n, first, second, shared=shared)
        found = metrics.rank_agreement(y, a, b, y.max() + 1, repeats=30)
        return float(found["p"] <= 0.05) if tau is None else float(inside(found, tau))

    return check


def _correlation(kind: str, n: int, rho: float, p: bool = False) -> Check:
    truth = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2), "kendall": 2 / np.pi * np.arcsin(rho)}[kind]

    def check(rng: Rng) -> float:
        x, e = rng.standard_normal((2, n))
        found = metrics.correlations(x, rho * x + np.sqrt(1 - rho**2) * e).loc[kind]
        return float(found["p"] <= 0.05) if p else float(inside(found, truth))

    return check


def _seeds(m: int, difference: bool, what: str) -> Check:
    """Trainings whose class accuracies are 50 % over all seeds and examples."""

    def trained(rng: Rng, y: np.ndarray, example: np.ndarray) -> np.ndarray:
        of_class = 0.1 * rng.standard_normal((m, 1)) + 0.1 * rng.standard_normal((m, 10))
        right: np.ndarray = example + of_class[:, y] + 0.5 * rng.standard_normal((m, len(y))) > 0
        return right

    def check(rng: Rng) -> float:
        y = np.repeat(np.arange(10), 100)
        example = rng.standard_normal(len(y))
        first = trained(rng, y, example)
        if not difference:
            return float(np.mean(inside(metrics.accuracy_over_seeds(y, first, 10), 0.5)))
        found = metrics.difference_over_seeds(y, first, trained(rng, y, example), 10)
        return float((found["p_adjusted"] <= 0.05).any()) if what == "p" else float(np.mean(inside(found, 0)))

    return check


def _matrix(row: str, symmetric: bool) -> Check:
    def check(rng: Rng) -> float:
        matrix = np.random.default_rng(0).dirichlet([0.5] * 8, 8)
        matrix = (matrix + matrix.T) / 2 if symmetric else matrix
        np.fill_diagonal(matrix, 0)
        matrix *= 0.5 / matrix.sum(1).max()
        np.fill_diagonal(matrix, 1 - matrix.sum(1))
        y = np.repeat(np.arange(8), 100)
        y_pred = (rng.random(800)[:, None] > matrix.cumsum(1)[y]).sum(1).clip(max=7)
        truth = {"asymmetry": metrics.asymmetry, "symmetry": metrics.symmetry}[row](matrix)
        return float(inside(metrics.confusion_symmetry(y, y_pred, 8, repeats=60).loc[row], truth))

    return check


def _rho(rng: Rng) -> float:
    new, old = [0.4, *[0.65] * 9], [0.3, *[0.7] * 9]
    y, a, b = outcomes(rng, 300, new, old)
    truth = metrics.rho(min(new), float(np.mean(new)), min(old), float(np.mean(old)))
    return float(inside(metrics.rho_interval(y, a, b, 10), truth))


def _shares(rng: Rng) -> float:
    weak, strong = CIFAR10, 0.8 * CIFAR10 - 0.1
    y, a, b = outcomes(rng, 200, weak, strong, shared=1.0)
    table = metrics.attack_strength(y, a, b, 10).sort_index()
    return float(np.mean(inside(table, (weak - strong) / (weak - strong).sum(), "share_low", "share_high")))


def _group(rng: Rng) -> float:
    y, right = outcomes(rng, 40, CIFAR10)
    groups = np.array(GROUPS)
    table = metrics.group_accuracy(y, np.where(right, y, (y + 1) % 10), GROUPS, [str(c) for c in range(10)])
    return float(np.mean(inside(table, [CIFAR10[groups == g].mean() for g in table.index])))


def _great_score(rng: Rng) -> float:
    p = rng.beta(2, 2, 400)
    found = metrics.great_score(np.stack([p, 1 - p], 1), np.zeros(400, int), activation=None)
    truth = np.sqrt(np.pi / 2) * _MARGIN
    return float(inside(found.loc[0], truth))


_MARGIN = 0.1875  # the mean of max(2 p - 1, 0) for p of a Beta(2, 2)


def _mcnemar(rng: Rng) -> float:
    y, a, b = outcomes(rng, 100, [0.45] * 10, [0.45] * 10)
    return float(np.mean(metrics.paired_comparison(y, a, b, 10)["p"] <= 0.05))


def _holm(rng: Rng) -> float:
    y, a, b = outcomes(rng, 200, [0.45] * 20, [0.45] * 20)
    return float((metrics.paired_comparison(y, a, b, 20)["p_adjusted"] <= 0.05).any())


def _equal(n: int, n_classes: int, p: float) -> Check:
    def check(rng: Rng) -> float:
        y, right = outcomes(rng, n, [p] * n_classes)
        return float(metrics.disparity_test(y, right, n_classes, repeats=400)["p"] <= 0.05)

    return check


def _worst_p(rng: Rng) -> float:
    y, a, b = outcomes(rng, 300, [0.4, 0.46, *REST], [0.46, 0.4, *REST], shared=0.95)
    return float(metrics.worst_class_difference(y, a, b, 10)["p"] <= 0.05)


SPREADS: dict[str, tuple[int, Any]] = {
    "10 equal classes of 100": (100, [0.5] * 10),
    "10 classes of 100, 30 to 80 %": (100, np.linspace(0.3, 0.8, 10)),
    "one of 10 far below, 100 each": (100, [0.2, *[0.7] * 9]),
}
INTERVALS: dict[tuple[str, str], Check] = {
    ("wilson", "50 %, 100 examples"): _wilson(100, 0.5),
    ("wilson", "3 %, 100 examples"): _wilson(100, 0.03),
    ("wilson", "2 %, 20 examples"): _wilson(20, 0.02),
    ("group_accuracy", "5 classes a group, 40 examples each"): _group,
    ("great_score", "400 examples"): _great_score,
    ("paired_comparison, each class", "10 classes of 100"): _by_class(100, CIFAR10, 0.9 * CIFAR10, 0.8),
    ("paired_comparison, each class", "10 classes of 20"): _by_class(20, CIFAR10, 0.9 * CIFAR10, 0.8),
    ("mean_accuracy", "10 classes of 100"): _mean(100, CIFAR10),
    ("mean_accuracy", "1,000 classes of 5"): _mean(5, np.linspace(0.2, 0.8, 1000)),
    ("mean_accuracy", "10 classes of 20 at 98 %"): _mean(20, [0.98] * 10),
    ("mean_difference", "10 classes of 100"): _pair(
        metrics.mean_difference, 100, CIFAR10, 0.9 * CIFAR10, 0.8, 0.1 * CIFAR10.mean()
    ),
    ("mean_difference", "1,000 classes of 5"): _pair(metrics.mean_difference, 5, [0.5] * 1000, [0.5] * 1000, 0.8, 0),
    ("worst_class", "10 equal classes of 100"): _worst(100, [0.5] * 10),
    ("worst_class", "10 classes of 1,000, as CIFAR-10's"): _worst(1000, CIFAR10),
    ("worst_class", "1,000 equal classes of 5"): _worst(5, [0.5] * 1000),
    ("worst_class_difference", "classes swap, 6 points, 300 each"): _worst_difference(
        300, [0.4, 0.46, *REST], [0.46, 0.4, *REST], 0.98
    ),
    ("worst_class_difference", "classes swap, 2.5 points, 1,000 each"): _worst_difference(
        1000, [0.4, 0.425, *REST], [0.425, 0.4, *REST], 0.98
    ),
    ("worst_class_difference", "10 ties in one, 100 each"): _worst_difference(100, [0.5] * 10, [0.3, *[0.8] * 9], 0.8),
    ("worst_class_difference", "one far below, 1,000 each"): _worst_difference(
        1000, [0.3, *[0.8] * 9], [0.25, *[0.8] * 9], 0.8
    ),
    ("worst_class_difference", "100 classes of 100"): _worst_difference(
        100, np.linspace(0.2, 0.9, 100), np.linspace(0.15, 0.9, 100), 0.8
    ),
    ("worst_class_difference", "1,000 equal classes of 5"): _worst_difference(5, [0.5] * 1000, [0.5] * 1000, 0.8),
    ("compare_with_best, mean, all differences", "20 equal models"): _best(20, "mean", "difference"),
    ("compare_with_best, mean, all ranks", "20 equal models"): _best(20, "mean", "ranks"),
    ("compare_with_best, worst, all differences", "5 equal models"): _best(5, "worst", "difference"),
    ("compare_with_best, worst, all ranks", "5 equal models"): _best(5, "worst", "ranks"),
    ("best_worst_class", "20 equal models"): _chosen(20),
    ("rank_agreement", "equal orders, 10 classes of 100"): _order(100, CIFAR10, 0.9 * CIFAR10, 0.8, 1),
    ("rank_agreement", "equal orders, 10 classes of 1,000"): _order(1000, CIFAR10, 0.9 * CIFAR10, 0.8, 1),
    ("rank_agreement", "opposite, within 8 points, 100 each"): _order(
        100, np.linspace(0.46, 0.54, 10), np.linspace(0.54, 0.46, 10), 0.99, -1
    ),
    **{
        (f"correlations, {kind}", f"{n} classes, true correlation {rho}"): _correlation(kind, n, rho)
        for kind in ("pearson", "spearman", "kendall")
        for n, rho in ((10, 0.0), (10, 0.9), (10, 0.95), (5, 0.9))
    },
    **{
        (f"disparity_intervals, {measure}", name): _disparity(measure, *spread)
        for measure in ("mcd", "sd", "nsd", "gini", "tail20")
        for name, spread in SPREADS.items()
    },
    ("confusion_symmetry, asymmetry", "symmetric, 8 classes of 100"): _matrix("asymmetry", True),
    ("confusion_symmetry, asymmetry", "asymmetric, 8 classes of 100"): _matrix("asymmetry", False),
    ("confusion_symmetry, symmetry", "symmetric, 8 classes of 100"): _matrix("symmetry", True),
    ("confusion_symmetry, symmetry", "asymmetric, 8 classes of 100"): _matrix("symmetry", False),
    ("rho_interval", "10 classes of 300"): _rho,
    ("attack_strength, shares", "10 classes of 200"): _shares,
    **{("accuracy_over_seeds", f"{m} seeds, 10 classes of 100"): _seeds(m, False, "") for m in (2, 3, 10)},
    **{("difference_over_seeds", f"{m} seeds, 10 classes of 100"): _seeds(m, True, "") for m in (2, 3, 10)},
}
TESTS: dict[tuple[str, str], Check] = {
    ("mcnemar", "10 equal classes of 100"): _mcnemar,
    ("paired_comparison, any p_adjusted", "20 equal classes of 200"): _holm,
    ("disparity_test", "10 equal classes of 100"): _equal(100, 10, 0.5),
    ("disparity_test", "1,000 equal classes of 5"): _equal(5, 1000, 0.5),
    ("disparity_test", "20 equal classes of 50 at 2 %"): _equal(50, 20, 0.02),
    ("worst_class_difference", "classes swap, 6 points, 300 each"): _worst_p,
    ("rank_agreement", "10 equal classes of 100, nested attacks, 45 and 40 %"): _order(
        100, [0.45] * 10, [0.4] * 10, 1.0, None
    ),
    ("rank_agreement", "100 equal classes of 50, nested attacks"): _order(50, [0.45] * 100, [0.4] * 100, 1.0, None),
    ("rank_agreement", "10 equal classes of 100, two models"): _order(100, [0.45] * 10, [0.45] * 10, 0.7, None),
    ("compare_with_best, mean, any model", "20 equal models"): _best(20, "mean", "p"),
    ("compare_with_best, mean, any model", "2 equal models"): _best(2, "mean", "p"),
    ("compare_with_best, worst, any model", "5 equal models"): _best(5, "worst", "p"),
    **{
        (f"correlations, {kind}", "10 classes, none"): _correlation(kind, 10, 0, True)
        for kind in ("pearson", "kendall")
    },
    **{("difference_over_seeds, any class", f"{m} seeds, equal recipes"): _seeds(m, True, "p") for m in (3, 10)},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, write the tables and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=400, help="number of simulated data sets per setting")
    parser.add_argument("--out", type=Path, default=RESULTS / "coverage", help="folder of the table")
    arguments = parser.parse_args(argv)
    rows = []
    for kind, checks in (("interval", INTERVALS), ("p", TESTS)):
        for name in checks:
            rows.append(simulate(kind, *name, arguments.data_sets))
            print(*rows[-1].values(), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.assign(command=command(__file__, arguments)).to_csv(
        arguments.out / "coverage.csv", index=False, float_format="%.4g"
    )
    page = arguments.out / "README.md"
    if page.exists():
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n\n{as_markdown(table)}\n{END}{after}", encoding="utf-8")


def simulate(kind: str, of: str, setting: str, data_sets: int) -> dict[str, Any]:
    """Return how often an interval covered, or a p was at most 5 %, and the standard error of that."""
    check = {"interval": INTERVALS, "p": TESTS}[kind][of, setting]
    rng = np.random.default_rng(zlib.crc32(f"{of}, {setting}".encode()))
    times = max(data_sets // 8, 1) if "worst_class" in of and "1,000 equal" in setting else data_sets
    found = [check(rng) for _ in range(times)]
    share = float(np.mean(found))
    error = float(np.std(found, ddof=1) / np.sqrt(times)) if times > 1 else np.nan
    return {"kind": kind, "of": of, "setting": setting, "share": share, "error": error, "data sets": times}


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table as the page of the results shows it."""
    parts = []
    for kind, head in (
        ("interval", "95 % interval of | setting | covered"),
        ("p", "p of | nothing to find | p ≤ 5 % in"),
    ):
        lines = [f"| {head} | data sets |", "| --- | --- | --- | --- |"]
        for row in table[table["kind"] == kind].to_dict("records"):
            share = f"{100 * row['share']:.1f} % ± {100 * row['error']:.1f}"
            name, _, rest = row["of"].partition(", ")
            of = f"`{name}`, {rest}" if rest else f"`{name}`"
            lines.append(f"| {of} | {row['setting']} | {share} | {row['data sets']} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
