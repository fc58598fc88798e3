"""A leaderboard in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise.report._text import interval, percent, printable, shorten

__all__ = ["print_leaderboard"]

_NUMBERS = 31  # columns of clean, robust and here


def print_leaderboard(table: pd.DataFrame, title: str, model_dir: Path) -> None:
    """Print the models, the most robust first; within 80 columns.

    Args:
        table: Of :func:`art_classwise.zoo.robustbench_table` or :func:`art_classwise.studies.beside_measured`.
        title: Above it.
        model_dir: Where weights are looked for.
    """
    console = Console()
    measured = "measured_clean" in table
    narrow = measured or console.width < 80
    notes = ["published accuracy in %, under AutoAttack or the leaderboard's corruptions", "–: nothing published"]
    if measured:
        notes += ["measured: over all examples, under all attacks, with 95 % intervals", "!: published lies outside"]
    else:
        notes.append("here: whether the weights are")
    shown = Table(title=Text(title, "bold"), caption=Text("; ".join(notes)), box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["clean", "robust", *(("measured clean", "measured robust", "") if measured else ("here",))]
    shown.add_column("model", no_wrap=True)
    if not narrow:
        shown.add_column("architecture", no_wrap=True)
    for column in columns:
        shown.add_column(column, justify="right")
    room = max(10, console.width - _NUMBERS - max((len(str(name)) for name in table.index), default=0))
    for name, row in table.iterrows():
        what = [] if narrow else [Text(shorten(printable(str(row["architecture"] or "–")), room))]
        # Names in full: they are there to be typed.
        shown.add_row(Text(printable(str(name))), *what, percent(row["clean"]), percent(row["robust"]), *_last(row))
    if len(table):
        console.print(shown)
    if not measured:
        here = int(table["here"].sum())
        console.print(Text(f"of {here} models the weights are in {printable(str(model_dir.absolute()))}"))


def _last(row: pd.Series[Any]) -> list[str]:
    if "measured_clean" not in row:
        return ["yes" if row["here"] else ""]
    ends = [[f"measured_{kind}{end}" for end in ("", "_low", "_high")] for kind in ("clean", "robust")]
    return [*(interval(*row[columns]) for columns in ends), "!" if row["differs"] else ""]
