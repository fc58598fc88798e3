"""The command ``zoo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_classwise.cli._json import leaderboard_content, printing
from art_classwise.cli._options import Json, ModelDir

__all__ = ["zoo"]


def zoo(
    dataset: Annotated[str, typer.Option("--dataset", help="cifar10, cifar100 or imagenet.")] = "cifar10",
    threat: Annotated[str, typer.Option("--threat", help="Linf, L2 or corruptions.")] = "Linf",
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            help="The folder of an audit, to show its results beside the published ones.",
            show_default=False,
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only models whose weights exist locally.")] = False,
    model_dir: ModelDir = Path("models"),
    out: Annotated[Path | None, typer.Option("--out", help="CSV file for the whole table.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List RobustBench's models: architecture, published accuracy, and whether the weights exist locally."""
    from art_classwise._core.files import check_output_file, written_aside
    from art_classwise.audit import read_audit
    from art_classwise.report.terminal import print_leaderboard
    from art_classwise.studies import beside_measured
    from art_classwise.zoo import robustbench_table

    if out is not None:
        check_output_file(out, "leaderboard.csv")
    with printing(json) as write:
        table = robustbench_table(dataset, threat, model_dir)
        if measured is not None:
            table = beside_measured(table, read_audit(measured), dataset, threat)
        table = table[table["here"]] if here else table
        if out is not None:
            with written_aside(out) as aside:
                table.to_csv(aside)
        if json:
            write("leaderboard", leaderboard_content(table, dataset, threat, model_dir))
            return
        print_leaderboard(table, f"RobustBench, {dataset} {threat}", model_dir)
        if out is not None:
            print(f"table     {out}")
