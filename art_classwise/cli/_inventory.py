"""The commands ``doctor`` and ``zoo``: what is installed, and which published models there are.

Nothing that may be broken is imported before the command runs.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from art_classwise.cli._json import leaderboard_content, printing, ranking_content
from art_classwise.cli._options import MODELS, OUTPUT, Json, ModelDir, Root
from art_classwise.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from art_classwise.doctor import Check

__all__ = ["doctor", "zoo"]

_COLOURS = {"ok": "green", "missing": "yellow", "broken": "bold red"}


def doctor(data_dir: Root = None, model_dir: ModelDir = Path("models"), json: Json = False) -> None:
    """Check your installation and suggest fixes; nothing is downloaded.

    The exit code is 0 if everything essential works: Python, torch, ART, the packages they need, and a writable folder.
    """
    from art_classwise.doctor import examine

    with printing(json) as write:
        checks = examine(data_dir or os.environ.get("ART_CLASSWISE_DATA", "data"), model_dir)
        works = all(check.state == "ok" for check in checks if check.essential)
        if json:
            write("doctor", {"works": works, "checks": [asdict(check) for check in checks]})
        else:
            _show(checks, works)
    if not works:
        raise typer.Exit(1)


def _show(checks: Sequence[Check], works: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from art_classwise._core.console import console

    out = console()
    widest = max(len(check.name) for check in checks)
    for about, several in groupby(checks, lambda check: check.about):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=7)
        table.add_column(width=widest)
        table.add_column(overflow="fold")
        advice: dict[str, list[str]] = {}
        for check in several:
            table.add_row(
                Text(check.state, _COLOURS[check.state]), Text(printable(check.name)), Text(printable(check.says))
            )
            if check.do is not None:
                advice.setdefault(check.do, []).append(check.name)
        out.print(Text(f"{about[0].upper()}{about[1:]}", "bold"))
        out.print(table)
        for do, names in advice.items():
            which = ", ".join(names) if len(names) < 6 else f"these {len(names)}"
            out.print(Text(printable(f"{which}: {do}"), "italic"))
        out.print()
    bad = [check.name for check in checks if check.essential and check.state != "ok"]
    lacks = sum(check.state == "broken" for check in checks) - len(bad)
    verdict = "Everything essential works." if works else f"Fix this first: {', '.join(map(printable, bad))}."
    if lacks > 0:
        verdict += f" {lacks} of the other parts {'is' if lacks == 1 else 'are'} broken."
    out.print(Text(verdict, "green" if works else "bold red"))


def zoo(
    dataset: Annotated[
        str, typer.Option("--dataset", help="cifar10, cifar100 or imagenet.", metavar="NAME", rich_help_panel=MODELS)
    ] = "cifar10",
    threat: Annotated[
        str, typer.Option("--threat", help="Linf, L2 or corruptions.", metavar="NAME", rich_help_panel=MODELS)
    ] = "Linf",
    here: Annotated[
        bool, typer.Option("--here", help="Only models whose weights exist locally.", rich_help_panel=MODELS)
    ] = False,
    model_dir: ModelDir = Path("models"),
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            help="The folder of an audit, to show its results beside the published ones.",
            metavar="DIR",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            help="The folder of an audit: its models' places on the whole published leaderboard, if a comparison is "
            "fair: standard AutoAttack at the same radius on all test images.",
            metavar="DIR",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="CSV file for the whole table.", metavar="FILE", show_default=False, rich_help_panel=OUTPUT
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List RobustBench's models: architecture, published accuracy, and whether the weights exist locally."""
    from art_classwise._core.files import check_output_file, output_file
    from art_classwise.audit import read_audit
    from art_classwise.report.data import upper_bounds
    from art_classwise.report.terminal import print_leaderboard, print_places
    from art_classwise.studies import beside_measured, place_on_board
    from art_classwise.zoo import robustbench_board, robustbench_table

    if out is not None:
        check_output_file(out, "leaderboard.csv")
    if rank is not None and (measured is not None or here):
        raise InputError("--rank places models on the whole published leaderboard: without --here and --measured.")
    with printing(json) as write:
        if rank is not None:
            places, board = place_on_board(read_audit(rank), dataset, threat), robustbench_board(dataset, threat)
            if out is not None:
                with output_file(out, "ranks.csv") as aside:
                    places.to_csv(aside)
            if json:
                write("ranking", ranking_content(places, board, dataset, threat))
                return
            print_places(places, board, f"RobustBench, {dataset} {threat}")
            if out is not None:
                print(f"table     {out}")
            return
        table, bound = robustbench_table(dataset, threat, model_dir), ""
        if measured is not None:
            result = read_audit(measured)
            table, bound = beside_measured(table, result, dataset, threat), upper_bounds(result)
        table = table[table["here"]] if here else table
        if out is not None:
            with output_file(out, "leaderboard.csv") as aside:
                table.to_csv(aside)
        if json:
            write("leaderboard", leaderboard_content(table, dataset, threat, model_dir))
            return
        print_leaderboard(table, f"RobustBench, {dataset} {threat}", model_dir, bound)
        if out is not None:
            print(f"table     {out}")
