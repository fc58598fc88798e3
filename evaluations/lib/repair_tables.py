"""How repairs of the worst class are compared: tables with intervals over seeds and test examples, and p values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

import art_classwise as acw
from lib.experiment import others_of, over_both, over_seeds, p_over_both
from lib.repairs import ALONE, REPAIRS

NONE = "none"
"""No policy."""
MEASURES = ("clean", "robust", "worst", "worst held out")
CHANGES = MEASURES[1:]
"""Of which there are changes, with intervals over seeds and examples."""
DRAWS = 200
"""How often test examples are drawn anew for an interval."""
SPLITS = 50
"""How often they are split into halves then."""

Drawn = Callable[[str, str, int], Mapping[str, np.ndarray]]
"""Returns what a training (objective, policy, seed) gives of each of CHANGES on test examples drawn anew (DRAWS,)."""


def compared(objective: str, policy: str) -> bool:
    """Return whether a training is compared with another one."""
    return policy != NONE or objective in ALONE


def base_of(objective: str, policy: str = NONE) -> str:
    """Return the objective whose training without a policy one is compared with."""
    return ALONE[objective].beside if objective in ALONE and policy == NONE else objective


def with_rho(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with rho of each against the training without a policy from the same seed.

    NaN where there is nothing to compare with, and where the worst class or the mean of that training is at 0.
    """
    plain = runs[runs["policy"] == NONE].set_index(["objective", "seed"]).sort_index()
    values = []
    for row in runs.to_dict("records"):
        objective, policy = row["objective"], row["policy"]
        base = plain.loc[(base_of(objective, policy), row["seed"])]
        pairs = [one[name] for one in (row, base) for name in ("worst held out", "robust")]
        values.append(acw.metrics.rho(*pairs) if compared(objective, policy) else np.nan)
    return runs.assign(rho=values)


def on_drawn_examples(y: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Return robust accuracies on examples drawn anew within each class: each of CHANGES, (DRAWS,).

    Args:
        y: Labels (n,). The same labels give the same draws.
        right: Whether each example is right, bool (n,).
    """
    rng = np.random.default_rng(0)
    groups = [rows for k in range(int(y.max()) + 1) if len(rows := np.flatnonzero(y == k)) > 1]
    counts = np.stack([right[rng.choice(rows, (DRAWS, len(rows)))].sum(1) for rows in groups], 1)
    return of_counts(counts, np.array([len(rows) for rows in groups]))


def on_independent_examples(accuracies: np.ndarray, sizes: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return what :func:`on_drawn_examples` does, of a training of which only class accuracies (C,) are known.

    Trainings of one seed number here are hit by the draws as much alike as can be, others not at all alike. Given to
    the seeds of one policy, it makes the interval of a difference to another policy too wide, not too narrow.

    Args:
        accuracies: Of the classes (C,).
        sizes: Numbers of their examples (C,).
        seed: Of the draws.
    """
    there = sizes > 1
    drawn = np.random.default_rng(seed).random((DRAWS, int(there.sum())))
    counts = binom.ppf(drawn, sizes[there], accuracies[there]).astype(np.int64)
    return of_counts(counts, sizes[there])


def of_counts(counts: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of CHANGES, (DRAWS,), of how many examples of each class are right (DRAWS, C), of how many (C,)."""
    rng, half = np.random.default_rng(1), sizes // 2
    first = rng.hypergeometric(counts[:, None], (sizes - counts)[:, None], half, (DRAWS, SPLITS, len(sizes)))
    halves = first / half, (counts[:, None] - first) / (sizes - half)
    chosen = [
        np.take_along_axis(other, one.argmin(2, keepdims=True), 2)[..., 0] for one, other in (halves, halves[::-1])
    ]
    accuracies = counts / sizes
    held_out = np.minimum(np.mean(chosen, axis=(0, 2)), accuracies.mean(1))
    return {"robust": accuracies.mean(1), "worst": accuracies.min(1), "worst held out": held_out}


def difference(
    runs: pd.DataFrame, drawn: Drawn, new: tuple[str, str], old: tuple[str, str], measure: str
) -> tuple[float, float, float, float]:
    """Return by how much a training differs from another one: mean over seeds, interval over seeds and examples, p.

    The seeds are those that both have.

    Args:
        runs: A row per training.
        drawn: What each gives on examples drawn anew.
        new: Objective and policy.
        old: Likewise.
        measure: One of CHANGES.
    """
    by_run = runs.set_index(["objective", "policy", "seed"])[measure].sort_index()
    changes = (by_run[new] - by_run[old]).dropna()
    seeds = [int(seed) for seed in changes.index]
    of_draws = [np.asarray(drawn(*new, seed)[measure]) - np.asarray(drawn(*old, seed)[measure]) for seed in seeds]
    variance = float(np.mean(of_draws, axis=0).var(ddof=1))
    crossed = (changes.to_numpy(), variance, DRAWS - 1)
    mean, low, high = over_both(*crossed, within=(-1, 1))
    return mean, low, high, p_over_both(*crossed)


def summary(runs: pd.DataFrame, drawn: Drawn) -> pd.DataFrame:
    """Return a row per objective and policy: means over seeds with 95 % intervals, as fractions.

    ``robust`` is the mean class robust accuracy, ``worst`` the plain minimum, ``worst held out`` that of the worst
    class without the bias of a minimum; the changes are to the training without a policy from the same seed, or to the
    method that one is compared with. Intervals of changes are over seeds and examples, the others and rho's over seeds.
    ``p`` is of the change of ``worst held out``, ``p adjusted`` by Holm for all rows.
    """
    rows = []
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        row: dict[str, Any] = {"dataset": some["dataset"].iloc[0]} if "dataset" in some else {}
        row |= {"objective": objective, "policy": policy, "seeds": len(some), "n": some["n"].iloc[0]}
        by_seed, p = some.set_index("seed"), np.nan
        old = (base_of(objective, policy), NONE)
        for measure in MEASURES:
            values = by_seed[measure]
            row |= dict(zip((measure, f"{measure} low", f"{measure} high"), over_seeds(values), strict=True))
            change: tuple[float, ...] = (np.nan,) * 3
            if compared(objective, policy) and measure in CHANGES:
                *change, p = difference(runs, drawn, (objective, policy), old, measure)
            elif compared(objective, policy):
                base = runs[(runs["objective"] == old[0]) & (runs["policy"] == NONE)].set_index("seed")
                change = over_seeds(values - base[measure])
            names = (f"{measure} change", f"{measure} change low", f"{measure} change high")
            row |= dict(zip(names, change, strict=True))
        row |= dict(zip(("rho", "rho low", "rho high"), over_seeds(by_seed["rho"]), strict=True))
        rows.append(row | {"p": p})
    table = pd.DataFrame(rows)
    return table.assign(**{"p adjusted": acw.metrics.holm(table["p"])})


def against_published(runs: pd.DataFrame, drawn: Drawn) -> pd.DataFrame:
    """Return how weight 2, and each combination that no paper has, differ from each published policy.

    A row per objective, policy and published one: the difference of the worst class, held out, and of the mean, with
    intervals over seeds and examples, as fractions; ``p adjusted`` by Holm for all rows.
    """
    rows = []
    for objective, some in runs.groupby("objective", sort=False):
        there = list(dict.fromkeys(some["policy"]))
        published = [p for p in there if p in REPAIRS and REPAIRS[p].kind == "published"]
        for policy in there:
            if policy != "weight 2" and not (policy in REPAIRS and REPAIRS[policy].kind == "ours"):
                continue
            for other in published:
                row: dict[str, Any] = {"dataset": some["dataset"].iloc[0]} if "dataset" in some else {}
                seeds = [set(some.loc[some["policy"] == one, "seed"]) for one in (policy, other)]
                row |= {
                    "objective": objective,
                    "policy": policy,
                    "against": other,
                    "seeds": len(set.intersection(*seeds)),
                }
                if not row["seeds"]:
                    continue
                for measure in ("robust", "worst held out"):
                    *change, p = difference(runs, drawn, (objective, policy), (objective, other), measure)
                    row |= dict(zip((measure, f"{measure} low", f"{measure} high"), change, strict=True))
                rows.append(row | {"p": p})
    table = pd.DataFrame(rows)
    return table.assign(**{"p adjusted": acw.metrics.holm(table["p"])}) if len(table) else table


def with_earlier(table: pd.DataFrame, path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """Return a table of a data set, behind those rows of an earlier one that it has none in place of.

    Args:
        table: With ``dataset``, alike in all rows.
        path: Of the earlier table, which need not be there.
        keys: Columns that tell what a row is of.

    Returns:
        All rows, each earlier one with the command it had. Where there is ``p``, it is adjusted for all of them anew.
    """
    if not path.is_file() or not len(table):
        return table
    earlier = pd.read_csv(path, dtype={"worst class": str})
    others = others_of(earlier[earlier["dataset"] == table["dataset"].iloc[0]], table, keys)
    joined = pd.concat([others.dropna(axis=1, how="all"), table], ignore_index=True)
    return joined.assign(**{"p adjusted": acw.metrics.holm(joined["p"])}) if "p" in joined else joined


def first_hit(histories: Mapping[tuple[str, int], pd.DataFrame], n_classes: int) -> pd.DataFrame:
    """Return the classes that catastrophic overfitting hits first: a row each, of the trainings in which any collapses.

    Args:
        histories: By method and seed, with ``collapsed_<k>``: see ``AdversarialTrainerFastPyTorch``.
        n_classes: Number of classes, C.

    Returns:
        ``objective``, ``seed``, ``epoch``, ``class``; its accuracy on validation examples, attacked by several steps,
        in that epoch and in the one before (``robust``, ``robust before``); and the share of the other classes that
        were weaker before, ties counting half (``rank before``): 0 is the weakest class, 0.5 what chance would give.
    """
    rows = []
    for (objective, seed), history in histories.items():
        robust, collapsed = (
            history[[f"{name}_{k}" for k in range(n_classes)]].to_numpy(dtype=float)
            for name in ("val_robust", "collapsed")
        )
        hit = np.flatnonzero((collapsed == 1).any(1))
        if not len(hit) or hit[0] == 0:
            continue
        epoch = int(hit[0])
        before = robust[epoch - 1]
        for k in np.flatnonzero(collapsed[epoch] == 1):
            others = np.delete(before, k)
            rank = np.mean((others < before[k]) + 0.5 * (others == before[k]))
            row: dict[str, Any] = {"objective": objective, "seed": seed, "epoch": int(history["epoch"].iloc[epoch])}
            row |= {"class": int(k), "robust": robust[epoch, k], "robust before": before[k], "rank before": rank}
            rows.append(row)
    return pd.DataFrame(rows)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the summary in per cent, each cell with its interval; the changes to the training without a policy too."""
    rows = []
    for row in table.to_dict("records"):
        told = {"objective": row["objective"], "policy": row["policy"]}
        told |= {name: interval(row, name) for name in MEASURES}
        if compared(row["objective"], row["policy"]):
            told |= {f"{name} change": interval(row, f"{name} change") for name in CHANGES}
            told |= {"rho": interval(row, "rho"), "p adjusted": f"{row['p adjusted']:.2g}"}
        rows.append(told)
    return pd.DataFrame(rows).fillna("")


def interval(row: Mapping[str, float], name: str) -> str:
    """Return a value of a row and its interval, in per cent, as ``5.7 (4.2–7.1)``."""
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", " low", " high"))
    return f"{value:.1f} ({low:.1f}–{high:.1f})" if low == low else f"{value:.1f}"


def title_of(objective: str) -> str:
    """Return the name of an objective in tables."""
    return ALONE[objective].title if objective in ALONE else {"standard": objective}.get(objective, objective.upper())
