"""An audit in the terminal."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.report._text import interval, percent, printable, shorten

__all__ = ["print_tables"]


_MOST_CLASSES = 20
_MOST_MODELS = 6
_NAME_WIDTH = 16
_MODEL_WIDTH = 26


def print_tables(result: AuditResult) -> None:
    """Print what an audit found; 80 columns wide where nothing says otherwise.

    A table per model, its worst classes first, of six models at most; a row per model, if there are several; and what
    looks wrong.
    """
    console = Console()
    if len(result.models) <= _MOST_MODELS:
        _print_classes(result, console)
    if len(result.models) > 1:
        _print_models(result, console)
    _print_findings(result, console)


def _print_models(result: AuditResult, console: Console) -> None:
    table = Table(
        title=Text(f"Models: accuracy in % at {result.threat}, the most robust first", "bold"),
        caption=Text(
            "means over classes, all attacks; held out: the worst class on examples it wasn't chosen on (95 % interval)"
        ),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for column in ("clean", "robust", "worst", "", "held out"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for name, row in result.summary().sort_values("mean", ascending=False, kind="stable").iterrows():
        table.add_row(
            Text(shorten(printable(str(name)), _MODEL_WIDTH)),
            percent(row["clean"]),
            percent(row["mean"]),
            percent(row["worst"]),
            Text(shorten(printable(str(row["worst_class"])), _NAME_WIDTH)),
            interval(row["held_out"], row["low"], row["high"]),
        )
    console.print(table)


def _print_findings(result: AuditResult, console: Console) -> None:
    for finding in result.findings:
        console.print(Text(f"! {printable(str(finding))}", "yellow"))
    if result.unchecked:
        which = "" if result.unchecked == result.models else f" of {', '.join(result.unchecked)}"
        console.print(Text(printable(f"The networks themselves{which} weren't checked (--checks).")))
    if result.findings or result.unchecked:
        console.print()


def _print_classes(result: AuditResult, console: Console) -> None:
    widest = min(_NAME_WIDTH, max(8, *(cell_len(c) for c in result.classes)))
    room = console.width - 44 - widest  # beside class, n and the two columns with intervals
    shown = [a for i, a in enumerate(result.attacks) if sum(cell_len(b) + 2 for b in result.attacks[: i + 1]) <= room]
    for name in result.models:
        under = {a: result.class_table(name, a)["robust"] for a in shown}
        rows = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
        notes = [f"mean over classes under all attacks: {percent(rows['robust'].mean())}", "brackets: 95 % intervals"]
        if result.info.get("worst_case") and len(result.attacks) > 1:
            notes.append("each attack with those before it")
        if len(rows) > _MOST_CLASSES:
            notes.append(f"{len(rows) - _MOST_CLASSES} more classes in by_class.csv")
        if len(shown) < len(result.attacks):
            notes.append(f"{len(result.attacks) - len(shown)} more attacks in by_class.csv")
        table = Table(
            title=Text(f"{printable(name)}: accuracy in % at {result.threat}, worst class first", "bold"),
            caption=Text("; ".join(notes)),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("class", no_wrap=True)
        for column in ("n", "clean", *shown, WORST_CASE):
            table.add_column(Text(printable(column)), justify="right", no_wrap=True)
        for i, (label, row) in enumerate(rows.head(_MOST_CLASSES).iterrows()):
            table.add_row(
                Text(shorten(printable(str(label)), _NAME_WIDTH)),
                str(int(row["n"])),
                interval(row["clean"], row["clean_low"], row["clean_high"]),
                *[percent(under[a][str(label)]) for a in shown],
                interval(row["robust"], row["low"], row["high"]),
                style="bold red" if i == 0 else None,
            )
        console.print(table)
