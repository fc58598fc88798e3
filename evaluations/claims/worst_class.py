"""How accurate are `worst_class` and the plain minimum as estimates of the worst class's accuracy? Simulated audits.

    python evaluations/claims/worst_class.py

Each setting has true class accuracies and a number of examples per class; each data set draws from them which examples
are classified correctly. The target is the smallest true accuracy. Reports bias, RMSE, coverage and mean width of 95 %
intervals, with standard errors of bias and coverage over data sets. `worst_class` is compared with the class of the
smallest accuracy and its Wilson interval, at 95 % and at 1 - 0.05 / C, which allows for the choice among C classes.
Needs no network and no data; takes a quarter of an hour on one core, most of it for the 1,000 classes.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.experiment import RESULTS, command

from art_classwise import metrics

# Robust accuracies of a published CIFAR-10 network, class by class.
CIFAR10 = (0.524, 0.678, 0.311, 0.318, 0.339, 0.369, 0.376, 0.468, 0.592, 0.576)

# Per setting: true accuracy and number of examples of each class.
SETTINGS: Mapping[str, tuple[Sequence[float], Sequence[int]]] = {
    "10 equal": ([0.5] * 10, [1000] * 10),
    "100 equal": ([0.5] * 100, [100] * 100),
    "CIFAR-10 x 1,000": (CIFAR10, [1000] * 10),
    "CIFAR-10 x 100": (CIFAR10, [100] * 10),
    "one far below": ([0.2] + [0.5] * 9, [100] * 10),
    "one of 100 far below": ([0.1] + [0.5] * 99, [100] * 100),
    "one of 100 a little below": ([0.4] + [0.5] * 99, [100] * 100),
    "two tied": ([0.3] * 2 + [0.5] * 8, [100] * 10),
    "near 0": (np.linspace(0.02, 0.10, 10), [100] * 10),
    "sizes 20 to 1,000": (CIFAR10, [1000, 20, 500, 200, 50, 20, 1000, 100, 20, 300]),
    "1,000 classes, 0.2 to 0.8": (np.linspace(0.2, 0.8, 1000), [50] * 1000),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=2000, help="number of simulated data sets per setting")
    parser.add_argument("--repeats", type=int, default=1000, help="number of random splits per data set")
    parser.add_argument("--out", type=Path, default=RESULTS / "worst_class", help="folder of the table")
    arguments = parser.parse_args(argv)
    tables = []
    for name in SETTINGS:
        tables.append(simulate(name, arguments.data_sets, arguments.repeats))
        print(tables[-1].to_string(index=False, float_format="%.4f"), flush=True)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {version('scipy')}"
    table = pd.concat(tables).assign(versions=versions, command=command(__file__, arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "worst_class.csv"
    table.to_csv(path, index=False, float_format="%.5f")
    print(f"{versions}\n{path}")


def simulate(name: str, data_sets: int, repeats: int = 1000, confidence: float = 0.95) -> pd.DataFrame:
    """Return a row per method of how it fares in a setting.

    Args:
        name: Of the setting.
        data_sets: How many are drawn.
        repeats: Random splits of each.
        confidence: Coverage asked of the intervals.

    Returns:
        ``setting``, ``classes``, ``worst`` (the true accuracy), ``data sets``, ``method``, ``bias``, ``bias error``,
        ``rmse``, ``coverage``, ``coverage error``, ``width``, fractions all.
    """
    p, n = (np.asarray(values) for values in SETTINGS[name])
    rng, n_classes, truth = np.random.default_rng(0), len(p), p.min()
    y = np.repeat(np.arange(n_classes), n)
    found: dict[str, list[tuple[float, float, float]]] = {"worst_class": [], "minimum": [], "minimum, 0.05 / C": []}
    for i in range(data_sets):
        correct = rng.random(len(y)) < p[y]
        worst: pd.Series[Any] = metrics.worst_class(
            y, correct, n_classes, repeats=repeats, confidence=confidence, seed=i
        )
        found["worst_class"].append((worst["accuracy"], worst["low"], worst["high"]))
        k = np.bincount(y[correct], minlength=n_classes)
        c = (k / n).argmin()
        for method, level in (("minimum", confidence), ("minimum, 0.05 / C", 1 - (1 - confidence) / n_classes)):
            low, high = metrics.wilson(k[c], n[c], level)
            found[method].append((k[c] / n[c], float(low), float(high)))
    rows = []
    for method, values in found.items():
        estimate, low, high = np.transpose(values)
        covers = (low <= truth) & (truth <= high)
        rows.append(
            {
                "setting": name,
                "classes": n_classes,
                "worst": truth,
                "data sets": data_sets,
                "method": method,
                "bias": estimate.mean() - truth,
                "bias error": estimate.std() / np.sqrt(data_sets),
                "rmse": np.sqrt(((estimate - truth) ** 2).mean()),
                "coverage": covers.mean(),
                "coverage error": covers.std() / np.sqrt(data_sets),
                "width": (high - low).mean(),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
