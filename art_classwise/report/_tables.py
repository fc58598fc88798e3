"""What tables of classes, of epochs and of models show of themselves in a notebook."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from art_classwise.report._grid import Grid, Marked
from art_classwise.report._text import interval, percent, printable, shorten

__all__ = ["classes_grid", "history_grid", "summary_grid"]

_MOST_ROWS = 40
_MOST_EPOCHS = 12
_NAME = 32
_MEASURES = ("clean", "robust", "val_clean", "val_robust", "val_worst")


def classes_grid(table: pd.DataFrame) -> Grid:
    """Return a table of classes or groups, as :meth:`art_classwise.AuditResult.by_class` has it, or one of its parts.

    Raises:
        KeyError: It lacks a column.
    """
    names = [str(name or "") for name in table.index.names]
    n, robust = table["n"], table["robust"]
    lowest = robust.groupby(level=list(range(table.index.nlevels - 1))).transform("min") if len(names) > 1 else None
    worst = robust == (robust.min() if lowest is None else lowest)
    rows, above = [], ("",) * len(names)
    for (label, row), marked in list(zip(table.iterrows(), worst, strict=True))[:_MOST_ROWS]:
        *outer, inner = label if isinstance(label, tuple) else (label,)
        said = ["" if outer[: i + 1] == list(above[: i + 1]) else str(part) for i, part in enumerate(outer)]
        above = (*outer, inner)
        cells = [
            *(shorten(printable(part), _NAME) for part in (*said, str(inner))),
            f"{row['n']:,.0f}",
            interval(row["clean"], row["clean_low"], row["clean_high"]),
            interval(row["robust"], row["low"], row["high"]),
        ]
        rows.append([*cells[: len(outer)], *map(Marked, cells[len(outer) :])] if marked else cells)
    notes = ["in %", "brackets: the intervals", f"marked: the weakest {names[-1] or 'class'}"]
    if len(names) == 1 and (n > 0).any():
        notes.append(f"mean {percent(robust.mean())}, gap {percent(robust.max() - robust.min())}")
    if len(table) > _MOST_ROWS:
        notes.append(f"{len(table) - _MOST_ROWS:,} more rows")
    return Grid("", [*names, "n", "clean", "robust"], rows, notes, frozenset(range(len(names))))


def summary_grid(table: pd.DataFrame) -> Grid:
    """Return a row per model, as :meth:`art_classwise.AuditResult.summary` has them.

    Raises:
        KeyError: It lacks a column.
    """
    numbers = ["clean", "mean", "tail20", "mcd"]
    rows = [
        [
            shorten(printable(str(name)), _NAME),
            *(percent(row[column]) for column in numbers),
            Marked(shorten(printable(str(row["worst_class"])), _NAME)),
            Marked(percent(row["worst"])),
            interval(row["held_out"], row["low"], row["high"]),
            f"{row['p']:.2g}",
        ]
        for name, row in table.head(_MOST_ROWS).iterrows()
    ]
    shown = {*numbers, "worst_class", "worst", "held_out", "low", "high", "p"}
    measures = [str(column) for column in table if column not in shown]
    notes = [
        "in %, class robust accuracies but for clean",
        "weakest fifth: their mean; gap: best minus worst class",
        "held out: the worst class on examples it wasn't chosen on, with the interval of its accuracy",
        "p: of equal accuracy in all classes",
        *([f"further columns: {', '.join(measures)}"] if measures else []),
    ]
    heads = ["model", "clean", "mean", "weakest fifth", "gap", "worst class", "worst", "held out", "p"]
    return Grid("", heads, rows, notes, frozenset([5]))


def history_grid(table: pd.DataFrame) -> Grid:
    """Return the last epochs of a training, and the one whose weights were kept.

    Raises:
        KeyError: It lacks a column.
    """
    kept = table.attrs.get("kept_epoch")
    measures = [column for column in _MEASURES if column in table and table[column].notna().any()]
    prefix = "val_" if "val_robust" in measures else ""
    kind = f"{prefix}robust" if f"{prefix}robust" in measures else f"{prefix}clean"
    of_class = {int(m[1]): c for c in map(str, table.columns) if (m := re.fullmatch(rf"{kind}_(\d+)", c))}
    if not {"epoch", "loss"} <= {*table.columns} or not of_class:
        raise KeyError("epoch, loss and the accuracies of classes")
    by_class = table[list(of_class.values())].set_axis(list(of_class), axis=1)
    shown = table[(table["epoch"] == kept) | (table.reset_index().index >= len(table) - _MOST_EPOCHS)]
    rows = []
    for (_, row), (_, of_epoch) in zip(shown.iterrows(), by_class.loc[shown.index].iterrows(), strict=True):
        accuracies = of_epoch.dropna()
        line = [f"{row['epoch']:.0f}", f"{row['loss']:.3f}", *(percent(row[column]) for column in measures)]
        if len(accuracies):
            line += [
                f"{accuracies.idxmin()}: {percent(accuracies.min())}",
                percent(accuracies.max() - accuracies.min()),
            ]
        else:
            line += ["–", "–"]
        rows.append([Marked(cell) for cell in line] if row["epoch"] == kept else line)
    notes = [f"in %; worst class, by number, and gap: of {kind}"]
    if kept is not None and len(table):
        notes.append(f"the weights are those of epoch {kept}")
    if len(table) > len(shown):
        notes.append(f"{len(shown)} of {len(table)} epochs")
    notes.append(f"{len(table.columns)} columns, by class {kind}_0 and so on")
    return Grid("", ["epoch", "loss", *map(_spoken, measures), "worst class", "gap"], rows, notes)


def _spoken(column: Any) -> str:
    return str(column).replace("val_", "validation ")
