"""Smallest perturbations of each class, as page, terminal and documents show them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from art_classwise._core.console import UNLIMITED
from art_classwise._core.words import more
from art_classwise.audit.distances import distances_of, measuring_attacks
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError
from art_classwise.report.tables import WIDTH, Grid, Marked, printable, shorten

__all__ = ["ClassDistance", "ModelDistances", "distances_grid", "distances_in"]

_NAME, _MOST_CLASSES = 16, 20
_MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Radii that documents and downloads have, in multiples of the audit's own."""


@dataclass(frozen=True)
class ClassDistance:
    """How far away from misclassification a class is, written out; a dash where nothing is known.

    Attributes:
        name: Of the class.
        right: How many of its examples are right without perturbation.
        median: Of these examples' distances, with its interval.
        half: The radius at which the class's robust accuracy falls to one half, with its interval.
        median_value: The median; NaN where it isn't known.
        half_value: That radius; NaN where it isn't known.
    """

    name: str
    right: int
    median: str
    half: str
    median_value: float
    half_value: float


@dataclass(frozen=True, eq=False)
class ModelDistances:
    """The distances of a model's classes under all attacks.

    Attributes:
        classes: All classes, the nearest first.
        searched: The largest perturbation that was looked for.
        table: What :meth:`AuditResult.distances` returns.
        at: What :meth:`AuditResult.robust_at` returns, from 0 to twice the audit's radius.
    """

    classes: tuple[ClassDistance, ...]
    searched: float
    table: pd.DataFrame
    at: pd.DataFrame

    def document(self) -> dict[str, Any]:
        """Return it as part of a document."""
        radii = [
            {
                "eps": eps,
                "classes": [{"class": name, **row} for name, row in part.droplevel("eps").to_dict("index").items()],
            }
            for eps, part in self.at.groupby(level="eps", sort=False)
        ]
        classes = [{"class": name, **row} for name, row in self.table.to_dict("index").items()]
        return {"searched": self.searched, "classes": classes, "radii": radii}


def distances_in(result: AuditResult, model: str) -> ModelDistances | None:
    """Return the distances that an audit's attacks measured of a model; None where none did, or not of all examples."""
    if not measuring_attacks(result, model):
        return None
    try:
        table = result.distances(model)
        at = result.robust_at([factor * result.threat.eps for factor in _MULTIPLES], model)
        searched = distances_of(result, model, result.overall).searched
    except InputError:  # attacks tried on different examples, as in an unfinished audit
        return None
    order = table.assign(left=table["half"].isna()).sort_values(["left", "half", "median"], kind="stable")
    classes = tuple(
        ClassDistance(
            str(name),
            int(row["right"]),
            _written(row["median"], row["low"], row["high"], row["right"]),
            _written(row["half"], row["half_low"], row["half_high"], row["n"]),
            float(row["median"]),
            float(row["half"]),
        )
        for name, row in order.iterrows()
    )
    return ModelDistances(classes, searched, table, at)


def _written(value: float, low: float, high: float, n: float) -> str:
    """Write a distance with its interval, whose upper end may be open."""
    if n == 0:
        return "–"
    ends = f"({low:.2g}–{'∞' if math.isnan(high) else f'{high:.2g}'})" if low == low else ""
    return f"{'–' if math.isnan(value) else f'{value:.3g}'} {ends}".strip()


def distances_grid(model: str, distances: ModelDistances, norm: str, width: int = WIDTH) -> Grid:
    """Return a row per class, the nearest first.

    Args:
        model: Name of the model.
        distances: Its distances.
        norm: Of the perturbations.
        width: Columns of the terminal.
    """
    unlimited = width >= UNLIMITED
    shown: Sequence[ClassDistance] = distances.classes[: sys.maxsize if unlimited else _MOST_CLASSES]
    rows = [
        [
            shorten(printable(one.name), sys.maxsize if unlimited else _NAME),
            f"{one.right:,}",
            one.median,
            (Marked if i == 0 else str)(one.half),
        ]
        for i, one in enumerate(shown)
    ]
    notes = [
        "median: of examples that are right without perturbation",
        "half: the radius at which the class's robust accuracy falls to one half",
        "brackets: 95 % intervals",
    ]
    if len(shown) < len(distances.classes):
        notes.append(f"{more(len(distances.classes) - len(shown), 'class')} in report.html")
    heads = ("class", "right", "median", "half")
    return Grid(f"{model}: smallest perturbations ({norm}), nearest class first", heads, rows, notes)
