"""Names, numbers and small tables, written for a terminal, as plain text, or by the HTML templates."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise._core.words import more
from art_classwise.errors import printable

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "WIDTH",
    "Grid",
    "Marked",
    "classes_grid",
    "difference",
    "history_grid",
    "interval",
    "p_value",
    "percent",
    "plain_text",
    "printable",
    "room",
    "shorten",
    "summary_grid",
    "template",
    "weakest_first",
]

WIDTH = 80
"""Columns of a terminal that every table fits."""


def percent(fraction: float) -> str:
    """Write a fraction in percent, without the sign; a dash where nothing is known."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def interval(value: float, low: float, high: float) -> str:
    """Write a fraction in percent with its interval; a dash where nothing is known."""
    return percent(value) if math.isnan(value + low + high) else f"{percent(value)} ({100 * low:.0f}–{100 * high:.0f})"


def difference(row: Mapping[str, Any] | pd.Series[Any]) -> tuple[str, str]:
    """Write a difference in points, and its interval in brackets; a dash and nothing where nothing is known."""
    value, low, high = (
        f"{100 * float(row[key]):+.1f}".replace("-", "\N{MINUS SIGN}") for key in ("difference", "low", "high")
    )
    return ("–", "") if "nan" in value else (value, f"({low} to {high})")


def p_value(value: float) -> str:
    """Write a p value; a dash where nothing is known."""
    if math.isnan(value):
        return "–"
    return "<.001" if value < 0.001 else ">.999" if value > 0.999 else f"{value:.3f}".removeprefix("0")


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a name that is longer than ``length`` cells of a terminal: ends often tell names apart."""
    if cell_len(text) <= length:
        return text
    start, end = (set_cell_size(part, (length - 1) // 2).rstrip() for part in (text, text[::-1]))
    return f"{start}…{end[::-1]}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("art_classwise", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "difference": difference,
        "short": shorten,
        "p": p_value,
        "printable": printable,
        "breakable": _breakable,
        "isolated": _isolated,
        "lines": _lines,
        # What a column is sorted by: nothing where nothing is known.
        "order": lambda value: "" if value != value else f"{value:.6g}",
    }
    environment.globals |= {"interval": interval, "more": more}
    return environment


def template(name: str) -> jinja2.Template:
    """Return a template of ``report/templates``; whatever it writes is escaped."""
    return _environment().get_template(name)


def _seen(value: Any) -> Any:
    """Let whatever a template writes be seen, but for what is markup already."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Return a text of ours, escaped, that has several lines."""
    return escape(printable(text, keep="\n"))


def _breakable(name: str) -> Markup:
    """Return a name, escaped, that may go on in the next line after each of its parts."""
    parts = Markup("<wbr>").join(re.split(r"(?<=[._/-])(?=[^._/-])", printable(name)))
    return Markup("<bdi>{}</bdi>").format(parts) if _RIGHT_TO_LEFT.search(name) else parts


# From the first Hebrew or Arabic letter to the last: what stands between belongs to it.
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_RUN = re.compile(f"{_RIGHT_TO_LEFT.pattern}(?:[^,;:]*{_RIGHT_TO_LEFT.pattern})?")


def _isolated(text: str) -> Markup:
    """Return a sentence, escaped, in which names written from right to left don't turn around what follows them."""
    seen, parts, end = printable(text), [], 0
    for run in _RUN.finditer(seen):
        parts += [escape(seen[end : run.start()]), Markup("<bdi>{}</bdi>").format(run[0])]
        end = run.end()
    return Markup("").join([*parts, escape(seen[end:])])


def weakest_first(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the classes that have examples by their mean robust accuracy over models: one order for all of these.

    Args:
        tables: A class table of each model, as :meth:`art_classwise.AuditResult.class_table` has it.
    """
    import pandas as pd

    mean = pd.concat([table["robust"].where(table["n"] > 0) for table in tables], axis=1).mean(axis=1).dropna()
    return [str(name) for name in mean.sort_values(kind="stable").index]


class Marked(str):
    """A highlighted cell: the worst class."""

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
        """Return it as a table of rich."""
        table = Table(
            title=Text(printable(self.title), "bold") if self.title else None,
            caption=Text(printable("; ".join(self.notes))) if self.notes else None,
            box=box.SIMPLE_HEAD,
            padding=(0, 0, 0, 1) if self.tight else (0, 1),
            pad_edge=False,
            show_edge=not self.tight,
        )
        for number, head in enumerate(self.heads):
            table.add_column(Text(printable(head)), justify="left" if self.is_text(number) else "right", no_wrap=True)
        for number, row in enumerate(self.rows):
            cells = (Text(printable(cell), "bold red" if self.is_marked(cell) else "") for cell in row)
            table.add_row(*cells, end_section=number in self.rules)
        return table

    def text(self) -> str:
        """Return it as plain text, 80 columns wide."""
        return plain_text(self.rich())

    def is_text(self, column: int) -> bool:
        """Return whether a column holds text, which stands on the left; numbers stand on the right."""
        return column == 0 or column in self.words

    @staticmethod
    def is_marked(cell: str) -> bool:
        """Return whether a cell is highlighted."""
        return isinstance(cell, Marked)


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


def plain_text(*parts: Table | str) -> str:
    """Return tables and lines one below the other, without colours and without spaces at the end of lines."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    for number, part in enumerate(parts):
        if number and (isinstance(part, Table) or isinstance(parts[number - 1], Table)):
            console.print()
        console.print(Text(printable(part, keep="\n")) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


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
        labels = ["" if outer[: i + 1] == list(above[: i + 1]) else str(part) for i, part in enumerate(outer)]
        above = (*outer, inner)
        cells = [
            *(shorten(printable(part), _NAME) for part in (*labels, str(inner))),
            f"{row['n']:,.0f}",
            interval(row["clean"], row["clean_low"], row["clean_high"]),
            interval(row["robust"], row["robust_low"], row["robust_high"]),
        ]
        rows.append([*cells[: len(outer)], *map(Marked, cells[len(outer) :])] if marked else cells)
    notes = ["in %", "brackets: the intervals", f"marked: the weakest {names[-1] or 'class'}"]
    if len(names) == 1 and (n > 0).any():
        notes.append(f"mean {percent(robust.mean())}, gap {percent(robust.max() - robust.min())}")
    if len(table) > _MOST_ROWS:
        notes.append(more(len(table) - _MOST_ROWS, "row"))
    return Grid("", [*names, "n", "clean", "robust"], rows, notes, frozenset(range(len(names))))


def summary_grid(table: pd.DataFrame) -> Grid:
    """Return a row per model, as :meth:`art_classwise.AuditResult.summary` has them.

    Raises:
        KeyError: It lacks a column.
    """
    rows = [
        [
            shorten(printable(str(name)), _NAME),
            interval(row["clean"], row["clean_low"], row["clean_high"]),
            interval(row["mean"], row["mean_low"], row["mean_high"]),
            percent(row["tail20"]),
            percent(row["mcd"]),
            Marked(shorten(printable(str(row["worst_class"])), _NAME)),
            Marked(percent(row["worst"])),
            interval(row["held_out"], row["worst_low"], row["worst_high"]),
            f"{row['p']:.2g}",
        ]
        for name, row in table.head(_MOST_ROWS).iterrows()
    ]
    shown = {"clean", "mean", "tail20", "mcd", "worst_class", "worst", "held_out", "left_out", "p"}
    shown |= {f"{of}_{end}" for of in ("clean", "mean", "worst") for end in ("low", "high")}
    measures = [str(column) for column in table if column not in shown]
    notes = [
        "in %, class robust accuracies but for clean; brackets: 95 % intervals",
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
