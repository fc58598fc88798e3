"""The commands ``plan``, ``work`` and ``collect``: an audit by any processes that see its store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_classwise.cli import _audit_options as flags
from art_classwise.cli._audit import show
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._interrupt import command_line, on_interrupt
from art_classwise.cli._json import printing
from art_classwise.cli._messages import say
from art_classwise.cli._options import (
    OUTPUT,
    RUNNING,
    ClassNames,
    DatasetName,
    Device,
    Groups,
    ImageSize,
    Json,
    ModelDir,
    Precision,
    Quiet,
    Root,
    Seed,
)
from art_classwise.errors import InputError

__all__ = ["collect", "plan", "work"]

_INCOMPLETE = 3

StoreArgument = Annotated[
    str, typer.Argument(help="The folder or address that `plan` wrote to.", metavar="STORE", show_default=False)
]


def plan(
    context: typer.Context,
    model: flags.Models,
    arch: flags.Architectures = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    surrogate: flags.Surrogate = None,
    model_dir: ModelDir = Path("models"),
    unsafe_weights: flags.UnsafeWeights = False,
    dataset: DatasetName = "digits",
    examples: flags.Examples = None,
    class_: flags.OnlyClasses = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    threat: flags.Threat = None,
    attacks: flags.AttackNames = None,
    corruptions: flags.Corruptions = None,
    corruption_dir: flags.CorruptionDir = None,
    worst_case: flags.WorstCase = False,
    checks: flags.Checks = True,
    precision: flags.SearchPrecision = Precision.auto,
    out: flags.Store = "runs/audit",
    batch_size: flags.BatchSize = None,
    device: Device = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
) -> None:
    """Write down an audit for other processes to compute, with an estimate of its cost.

    Each of them then runs `work STORE`; `collect STORE` writes the report. Files of models and data must be where they
    are here.
    """
    given = {**locals(), "groups": None}
    from art_classwise._core.progress import about
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.audit.planned import planned_units
    from art_classwise.cli._early import check_given
    from art_classwise.cli._prepared import prepared

    check_given(given)
    write_config(context, save_config)
    asked = prepared(given)
    specs = asked.sources.specs(model)
    source = None if asked.surrogate is None else asked.sources.spec(asked.surrogate)[1]
    job = ClassWiseAudit(store=out, surrogate=source, verbose=False, **asked.options)
    manifest = job.plan(specs, asked.named)
    units = planned_units(out)
    planned = manifest.plan
    assert planned is not None
    n = manifest.examples.n
    for name in specs:
        seconds = sum(planned.seconds[name].values()) * n
        print(f"{name}: at most about {about(seconds)} on this machine ({n:,} example{'' if n == 1 else 's'})")
    print(f"{len(units)} units in {job.store}")
    print(f"next: art-classwise work {job.store} --index 0/1")


def work(
    context: typer.Context,
    store: StoreArgument,
    index: Annotated[
        str,
        typer.Option(
            "--index",
            metavar="I/N",
            help="Which worker this is of how many, from 0: 3/16 computes the fourth of sixteen shares.",
            rich_help_panel=RUNNING,
        ),
    ] = "0/1",
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--units",
            metavar="ID",
            help="Compute this unit, in place of a share; repeat the option for more.",
            show_default=False,
            rich_help_panel=RUNNING,
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Print the ids of all units, and compute nothing.", rich_help_panel=OUTPUT)
    ] = False,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Allow what the plan holds of code (pickled models, architectures in files). Only for plans of people "
            "you trust.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Compute units of a planned audit, those that aren't there yet."""
    from art_classwise.audit import planned_units, work_on

    if list_:
        for unit in planned_units(store):
            print(unit)
        return
    on_interrupt(
        context,
        lambda: f"Interrupted: what is finished is kept in {store}, and the same command goes on:\n{command_line()}",
    )
    number, of = _parted(index)
    done = work_on(
        store,
        index=number,
        of=of,
        units=units,
        run_code=run_code,
        device=None if device is None else device.value,
        verbose=not quiet,
    )
    say(f"{done} unit{'' if done == 1 else 's'} computed in {store}")


def collect(store: StoreArgument, groups: Groups = None, json: Json = False) -> None:
    """Write a planned audit's report; or, with exit status 3, say what is missing."""
    from art_classwise.audit import collect as collected
    from art_classwise.audit import read_audit
    from art_classwise.report import write_report

    lacking = collected(store)
    if lacking:
        for sentence in lacking:
            print(sentence)
        raise typer.Exit(_INCOMPLETE)
    with printing(json) as write:
        result = read_audit(store)
        write_report(result, store)
        show(result, store, write if json else None, groups)


def _parted(index: str) -> tuple[int, int]:
    number, slash, of = index.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(of) >= 1):
        raise InputError(f"--index takes NUMBER/WORKERS, such as 3/16, numbers from 0, not {index!r}.")
    return int(number), int(of)
