"""A small table of words and numbers, to be shown on a terminal, as plain text, or in a notebook."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise.report._text import interval, percent, printable, shorten

__all__ = ["WIDTH", "Grid", "Marked", "block", "classes_grid", "history_grid", "plain_text", "room", "summary_grid"]

WIDTH = 80
"""Columns of a terminal that every table fits."""

# Nothing here has a colour of its own, and the mark lets the notebook's through: so it fits light and dark.
_LINE = "border:0;border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = "padding:.15em .7em;white-space:nowrap;color:inherit;vertical-align:baseline"
_MARK, _PLAIN = "background:rgba(213,94,0,.22);font-weight:bold", "background:transparent;font-weight:normal"
_ROW, _SCOPE = "background:transparent", 'scope="row" '
_TABLE = "border-collapse:collapse;margin:.3em 0;font-size:90%"
_CAPTION = "caption-side:top;text-align:left;font-weight:bold;padding:.15em 0;color:inherit"


class Marked(str):
    """A cell that a reader shall see first: the worst class."""

    __slots__ = ()


@dataclass(frozen=True)
class Grid:
    """A table whose cells are written out, which knows nothing of what they mean.

    Attributes:
        title: Above it.
        heads: Of the columns.
        rows: Cells, one for each head.
        notes: Below it, joined by semicolons.
        words: Numbers of the columns that are words, not numbers, beside the first.
        rules: Numbers of the rows that a line follows.
        tight: One space less between columns.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: frozenset[int] = frozenset()
    rules: frozenset[int] = frozenset()
    tight: bool = field(default=False, kw_only=True)

    def rich(self) -> Table:
        """Return it as rich shows tables."""
        table = Table(
            title=Text(printable(self.title), "bold") if self.title else None,
            caption=Text(printable("; ".join(self.notes))) if self.notes else None,
            box=box.SIMPLE_HEAD,
            padding=(0, 0, 0, 1) if self.tight else (0, 1),
            pad_edge=False,
            show_edge=not self.tight,
        )
        for number, head in enumerate(self.heads):
            words = number == 0 or number in self.words
            table.add_column(Text(printable(head)), justify="left" if words else "right", no_wrap=True)
        for number, row in enumerate(self.rows):
            cells = (Text(printable(cell), "bold red" if isinstance(cell, Marked) else "") for cell in row)
            table.add_row(*cells, end_section=number in self.rules)
        return table

    def text(self) -> str:
        """Return it as plain text, 80 columns wide."""
        return plain_text(self.rich())

    def html(self) -> str:
        """Return it as HTML without a script or a style sheet; everything in it is escaped."""
        title = f'<caption style="{_CAPTION}">{_shown(self.title)}</caption>' if self.title else ""
        heads = "".join(
            f'<th scope="col" style="{_CELL};{_LINE};text-align:{self._side(i)};font-weight:bold">{_shown(head)}</th>'
            for i, head in enumerate(self.heads)
        )
        body = "".join(self._row(number, row) for number, row in enumerate(self.rows))
        return (
            f'<div style="overflow-x:auto"><table style="{_TABLE}">{title}'
            f'<thead><tr style="{_ROW}">{heads}</tr></thead><tbody>{body}</tbody></table></div>'
            + (block("; ".join(self.notes), "font-size:85%;opacity:.8;max-width:60em") if self.notes else "")
        )

    def _row(self, number: int, row: Sequence[str]) -> str:
        line = f"{_LINE};border-bottom-width:{2 if number in self.rules else 1}px"
        cells = []
        for i, cell in enumerate(row):
            tag = "td" if i else "th"
            style = f"{_CELL};{line};text-align:{self._side(i)};{_MARK if isinstance(cell, Marked) else _PLAIN}"
            cells.append(f'<{tag} {"" if i else _SCOPE}style="{style}">{_shown(cell)}</{tag}>')
        return f'<tr style="{_ROW}">{"".join(cells)}</tr>'

    def _side(self, number: int) -> str:
        return "left" if number == 0 or number in self.words else "right"


def room(
    heads: Sequence[str], rows: Sequence[Sequence[str]], most: int, *, width: int = WIDTH, tight: bool = False
) -> int:
    """Return how many cells a table's first column may have, so that the others stand within its width in full.

    Args:
        heads: Of the other columns.
        rows: Their cells.
        most: What the first column needs no more than.
        width: Columns of the terminal.
        tight: As of the table.
    """
    between, edges = (2, 0) if tight else (3, 2)
    used = edges + sum(between + max(map(cell_len, column)) for column in zip(heads, *rows, strict=True))
    return max(min(most, width - used), 8)


def block(text: str, style: str = "") -> str:
    """Return words as a block of HTML, escaped."""
    return f'<div style="margin:.3em 0;{style}">{_shown(text)}</div>'


def plain_text(*parts: Table | str) -> str:
    """Return tables and lines one below the other, without colours and without spaces at the end of lines."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    for number, part in enumerate(parts):
        if number and (isinstance(part, Table) or isinstance(parts[number - 1], Table)):
            console.print()
        console.print(Text(printable(part, keep="\n")) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def _shown(text: str) -> str:
    return escape(printable(text), quote=True)


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
