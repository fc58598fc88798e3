"""An audit in the terminal."""

from __future__ import annotations

from itertools import accumulate

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.metrics.groups import Groups
from art_classwise.report._grid import Grid, Marked, room
from art_classwise.report._text import interval, percent, printable, shorten

__all__ = ["class_grid", "models_grid", "print_groups", "print_tables"]


_MOST_CLASSES = 20
_MOST_MODELS = 6
_NAME_WIDTH = 16
_MODEL_WIDTH, _SHORT = 22, 12


def print_tables(result: AuditResult) -> None:
    """Print what an audit found; 80 columns wide where nothing says otherwise.

    A table per model, its worst classes first, of six models at most; a row per model, if there are several; and what
    looks wrong.
    """
    console = Console()
    if len(result.models) <= _MOST_MODELS:
        for name in result.models:
            console.print(class_grid(result, name, console.width).rich())
    if len(result.models) > 1:
        console.print(models_grid(result).rich())
    _print_findings(result, console)


def print_groups(result: AuditResult, groups: Groups) -> None:
    """Print a row per group of classes and model, the weakest group first; within 80 columns.

    Args:
        result: The audit.
        groups: As for :meth:`AuditResult.by_group`.
    """
    console = Console()
    table = result.by_group(groups)
    for name in result.models:
        of_model = pd.DataFrame(table.xs((name, WORST_CASE)))
        rows = of_model.sort_values("robust", kind="stable", na_position="last")
        cells = [
            [
                shorten(printable(str(group)), _MODEL_WIDTH),
                str(int(row["n"])),
                interval(row["clean"], row["clean_low"], row["clean_high"]),
                (Marked if row["robust"] == rows["robust"].min() else str)(
                    interval(row["robust"], row["low"], row["high"])
                ),
            ]
            for group, row in rows.iterrows()
        ]
        title = f"{name}: groups, in % at {result.threat}"
        notes = ["an example counts as right if its class is found", "brackets: 95 % intervals"]
        console.print(Grid(title, ("group", "n", "clean", WORST_CASE), cells, notes).rich())


def models_grid(result: AuditResult) -> Grid:
    """Return a row per model, the most robust first, as a table of 80 columns."""
    summary = result.summary().sort_values("mean", ascending=False, kind="stable")
    heads = ("model", "clean", "robust", "worst", "", "held out", "gap")
    rows = [
        [
            printable(str(name)),
            percent(row["clean"]),
            percent(row["mean"]),
            Marked(percent(row["worst"])),
            Marked(shorten(printable(str(row["worst_class"])), _SHORT)),
            interval(row["held_out"], row["low"], row["high"]),
            percent(row["mcd"]),
        ]
        for name, row in summary.iterrows()
    ]
    width = room(heads[1:], [row[1:] for row in rows], _MODEL_WIDTH)
    rows = [[shorten(name, width), *cells] for name, *cells in rows]
    notes = [
        "means over classes, all attacks",
        "held out: the worst class on examples it wasn't chosen on (95 % interval)",
        "gap: best minus worst",
    ]
    return Grid(f"Models: accuracy in % at {result.threat}", heads, rows, notes, frozenset([4]))


def _print_findings(result: AuditResult, console: Console) -> None:
    for finding in result.findings:
        console.print(Text(f"! {printable(str(finding))}", "yellow"))
    if result.unchecked:
        which = "" if result.unchecked == result.models else f" of {', '.join(result.unchecked)}"
        console.print(Text(printable(f"The networks themselves{which} weren't checked (--checks).")))
    if result.findings or result.unchecked:
        console.print()


def class_grid(result: AuditResult, name: str, width: int) -> Grid:
    """Return a row per class of one model, the worst first, with as many attacks as there is room for.

    Args:
        result: The audit.
        name: Of the model.
        width: Columns of the terminal.
    """
    rows = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
    fixed = [
        [
            shorten(printable(str(label)), _NAME_WIDTH),
            str(int(row["n"])),
            interval(row["clean"], row["clean_low"], row["clean_high"]),
            interval(row["robust"], row["low"], row["high"]),
        ]
        for label, row in rows.head(_MOST_CLASSES).iterrows()
    ]
    beside = room(("n", "clean", WORST_CASE), [line[1:] for line in fixed], width, width=width)
    left = beside - max(cell_len(name) for name in ("class", *(line[0] for line in fixed)))
    needed = accumulate(3 + max(cell_len(attack), 5) for attack in result.attacks)
    shown = [attack for attack, so_far in zip(result.attacks, needed, strict=True) if so_far <= left]
    under = [result.class_table(name, a)["robust"] for a in shown]
    notes = [f"mean over classes under all attacks: {percent(rows['robust'].mean())}", "brackets: 95 % intervals"]
    if result.info.get("worst_case") and len(result.attacks) > 1:
        notes.append("each attack with those before it")
    if len(rows) > _MOST_CLASSES:
        notes.append(f"{len(rows) - _MOST_CLASSES} more classes in by_class.csv")
    if len(shown) < len(result.attacks):
        notes.append(f"{len(result.attacks) - len(shown)} more attacks in by_class.csv")
    cells = [
        [*first, *(percent(accuracies[str(label)]) for accuracies in under), last]
        for label, (*first, last) in zip(rows.index, fixed, strict=False)
    ]
    cells[0] = [Marked(cell) for cell in cells[0]]
    title = f"{name}: accuracy in % at {result.threat}, worst class first"
    return Grid(title, ("class", "n", "clean", *shown, WORST_CASE), cells, notes)
