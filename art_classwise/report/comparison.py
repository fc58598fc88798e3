"""Comparisons in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.compare import Comparison
from art_classwise.report._text import percent, printable, shorten

__all__ = ["print_comparison", "print_pairs"]

_MOST_ROWS = 20
_CLASS, _NAME = 14, 10


def print_comparison(comparison: Comparison) -> None:
    """Print the classes, worst first, then what holds over all of them; within 80 columns."""
    one, other = _heading(comparison.first, _NAME), _heading(comparison.second, _NAME)
    by_class = comparison.by_class
    lowest = by_class[["first", "second"]].min(axis=1)
    rows = by_class.loc[lowest.sort_values(kind="stable", na_position="last").index]
    coverage = f"{100 * comparison.confidence:g} %"
    notes = [
        f"in %; difference: {one} minus {other}",
        f"intervals: {coverage}, each for itself",
        "p: adjusted for all classes",
    ]
    if comparison.worst_case and comparison.attack != WORST_CASE and comparison.kind == "robust":
        notes.append("each attack with those before it")
    worst = comparison.worst_class
    lows = [_heading(worst[f"{side}_class"], _CLASS) for side in ("first", "second")]
    if worst["first_class"] != worst["second_class"]:
        notes.append(f"worst class: {lows[0]} of {one}, {lows[1]} of {other}")
    if len(rows) > _MOST_ROWS:
        notes.append(f"{len(rows) - _MOST_ROWS} more classes")
    table = _table(
        f"{printable(comparison.first)} and {printable(comparison.second)}: {printable(comparison.about)}", notes
    )
    for column in ("worst first", "n", one, other, "difference", "p"):
        table.add_column(Text(column), justify="left" if column == "worst first" else "right", no_wrap=True)
    for label, row in rows.head(_MOST_ROWS).iterrows():
        shares = [
            Text(percent(row[side]), "bold red" if label == worst[f"{side}_class"] else "")
            for side in ("first", "second")
        ]
        table.add_row(
            Text(_heading(label, _CLASS)), f"{row['n']:.0f}", *shares, _difference(row), _p(row["p_adjusted"])
        )
    table.add_section()
    for name, row, p in (
        ("all examples", comparison.overall, _p(comparison.overall["p"])),
        ("class means", comparison.mean, ""),
        ("worst class", worst, ""),
    ):
        shown = (percent(row["first"]), percent(row["second"]), _difference(row))
        table.add_row(name, f"{comparison.n}" if p else "", *shown, p)
    Console().print(table)


def print_pairs(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> None:
    """Print a row per pair, as :func:`art_classwise.audit.compare.comparison_table` has them; within 80 columns."""
    first = comparisons[0]
    notes = [
        "in %; differences: upper name minus lower",
        f"brackets: {100 * first.confidence:g} % intervals, each for itself",
        "p: of all examples, adjusted for all pairs",
    ]
    if len(table) > _MOST_ROWS:
        notes.append(f"{len(table) - _MOST_ROWS} more pairs")
    about = printable(first.about)
    shown = _table(f"{about[0].upper()}{about[1:]}", notes)
    for column in ("pair", "all examples", "p", "class means", "worst classes"):
        shown.add_column(Text(column), justify="left" if column == "pair" else "right", no_wrap=True)
    for place, (_, row) in enumerate(table.head(_MOST_ROWS).iterrows()):
        pair = comparisons[place]
        worst = [
            f"{_heading(row[f'{side}_worst_class'], 11)} {percent(row[f'{side}_worst']):>5}"
            for side in ("first", "second")
        ]
        means = {key: row[f"mean_{key}"] for key in ("difference", "low", "high")}
        shown.add_row(
            Text("\n".join(_heading(name, 16) for name in (pair.first, pair.second))),
            _difference(row, "\n"),
            _p(row["p_adjusted"]),
            _difference(means, "\n"),
            Text("\n".join(worst)),
            end_section=True,
        )
    Console().print(shown)


def _table(title: str, notes: list[str]) -> Table:
    return Table(title=Text(title, "bold"), caption=Text("; ".join(notes)), box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))


def _heading(name: object, length: int) -> str:
    return shorten(printable(str(name)), length)


def _difference(row: Mapping[str, float] | pd.Series[float], between: str = " ") -> str:
    """Write a difference in points with its interval; a dash where nothing is known."""
    value, low, high = (f"{100 * float(row[key]):+.1f}" for key in ("difference", "low", "high"))
    text = "–" if "nan" in value else f"{value}{between}({low} to {high})"
    return text.replace("-", "\N{MINUS SIGN}")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
