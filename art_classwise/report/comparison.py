"""Comparisons in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.text import Text

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison
from art_classwise.report._grid import Grid, Marked, room
from art_classwise.report._text import difference, p_value, percent, printable, shorten

__all__ = ["comparison_grid", "print_comparison", "print_pairs"]

_MOST_ROWS = 20
# At most, in cells of the terminal: "all attacks", which may stand at the head of a column, has 11.
_CLASS, _NAME, _PAIR = 14, 11, 24


def print_comparison(comparison: Comparison) -> None:
    """Print the classes, worst first, then what holds over all of them; within 80 columns."""
    Console().print(comparison_grid(comparison).rich())


def comparison_grid(comparison: Comparison) -> Grid:
    """Return the classes, worst first, then what holds over all of them, as a table of 80 columns."""
    one, other = _heading(comparison.first, _NAME), _heading(comparison.second, _NAME)
    if one == other:  # as long names that differ in the middle are
        one, other = "first", "second"
    by_class = comparison.by_class
    lowest = by_class[["first", "second"]].min(axis=1)
    rows = by_class.loc[lowest.sort_values(kind="stable", na_position="last").index]
    notes = [
        f"in %; difference: {one} minus {other}",
        f"intervals: {100 * comparison.confidence:g} %, each for itself",
        "p: adjusted for all classes",
        *_with_those_before(comparison),
    ]
    worst = comparison.worst_class
    lows = [_heading(worst[f"{side}_class"], _CLASS) for side in ("first", "second")]
    if worst["first_class"] != worst["second_class"]:
        notes.append(f"worst class: {lows[0]} of {one}, {lows[1]} of {other}")
    if len(rows) > _MOST_ROWS:
        notes.append(f"{len(rows) - _MOST_ROWS} more classes")
    shown = rows.head(_MOST_ROWS)
    lines = [[f"{row['n']:.0f}", *_values(row), p_value(row["p_adjusted"])] for _, row in shown.iterrows()]
    totals = {
        "all examples": [f"{comparison.n}", *_values(comparison.overall), p_value(comparison.overall["p"])],
        "class means": ["", *_values(comparison.mean), ""],
        "worst class": ["", *_values(worst), ""],
    }
    heads = ("n", one, other, "difference", "p")
    width = room(heads, [*lines, *totals.values()], _CLASS, tight=True)
    named = []
    for label, (n, first, second, *rest) in zip(shown.index, lines, strict=True):
        marks = [Marked if label == worst[f"{side}_class"] else str for side in ("first", "second")]
        named.append([_heading(label, width), n, marks[0](first), marks[1](second), *rest])
    title = f"{comparison.first} and {comparison.second}: {comparison.about}"
    cells = named + [[name, *line] for name, line in totals.items()]
    rules = frozenset([len(named) - 1])
    return Grid(title, ("worst first", *heads), cells, notes, rules=rules, tight=True)


def print_pairs(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> None:
    """Print a row per pair, as :func:`art_classwise.audit.comparison.comparison_table` has them; within 80 columns."""
    notes = [
        "in %; differences: upper name minus lower",
        f"brackets: {100 * comparisons[0].confidence:g} % intervals, each for itself",
        "p: of all examples, adjusted for all pairs",
        *_with_those_before(comparisons[0]),
    ]
    if len(table) > _MOST_ROWS:
        notes.append(f"{len(table) - _MOST_ROWS} more pairs")
    lines = []
    for _, row in table.head(_MOST_ROWS).iterrows():
        means = {key: row[f"mean_{key}"] for key in ("difference", "low", "high")}
        (value, interval), (mean, around) = difference(row), difference(means)
        worst = [
            f"{_heading(row[f'{side}_worst_class'], 11)} {percent(row[f'{side}_worst']):>5}"
            for side in ("first", "second")
        ]
        lines += [[value, p_value(row["p_adjusted"]), mean, worst[0]], [interval, "", around, worst[1]]]
    heads = ("all examples", "p", "class means", "worst classes")
    width = room(heads, lines, _PAIR, tight=True)
    about = printable(comparisons[0].about)
    shown = Grid(f"{about[0].upper()}{about[1:]}", ("pair", *heads), (), notes, tight=True).rich()
    names = [name for pair in comparisons[:_MOST_ROWS] for name in (pair.first, pair.second)]
    for place, (name, line) in enumerate(zip(names, lines, strict=True)):
        # In full, over several lines if need be: shortened, names may look alike.
        parts = Text(printable(name)).wrap(Console(), width, overflow="fold")
        shown.add_row(Text("\n").join(parts), *map(Text, line), end_section=place % 2 == 1)
    Console().print(shown)


def _with_those_before(comparison: Comparison) -> list[str]:
    nested = comparison.worst_case and comparison.attack != WORST_CASE and comparison.kind == "robust"
    return ["each attack with those before it"] if nested else []


def _heading(name: object, length: int) -> str:
    return shorten(printable(str(name)), length)


def _values(row: pd.Series[float]) -> list[str]:
    """Write the accuracies of two and their difference with its interval."""
    return [percent(row["first"]), percent(row["second"]), " ".join(difference(row)).strip()]
