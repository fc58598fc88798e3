"""The commands ``audit`` and ``report``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_classwise.cli import _audit_options as flags
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._images import with_kept_images
from art_classwise.cli._interrupt import command_line, on_interrupt
from art_classwise.cli._json import Writer, audit_content, printing
from art_classwise.cli._messages import say
from art_classwise.cli._options import (
    ClassNames,
    DatasetName,
    Device,
    GroupNames,
    Groups,
    ImageSize,
    Json,
    Latex,
    ModelDir,
    Precision,
    Quiet,
    Root,
    Seed,
    say_where,
    write_latex,
)
from art_classwise.cli._radii import reported_again, show_sweep, swept
from art_classwise.errors import InputError

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult
    from art_classwise.datasets import Dataset
    from art_classwise.threat import ThreatModel

__all__ = ["audit", "report", "show"]


def audit(
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
    attacks: flags.AttackNames = "quick",
    worst_case: flags.WorstCase = False,
    checks: flags.Checks = True,
    precision: flags.SearchPrecision = Precision.auto,
    out: flags.Store = "runs/audit",
    groups: Groups = None,
    latex: Latex = None,
    json: Json = False,
    quiet: Quiet = False,
    on: flags.On = None,
    slurm: flags.Slurm = None,
    batch_size: flags.BatchSize = None,
    device: Device = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
) -> None:
    """Attack models on a test set and report, class by class, how many examples withstand.

    If interrupted, the same command resumes the audit. --on has others compute; torchrun, several GPUs of this machine.
    """
    given = dict(locals())
    from art_classwise._core.distributed import is_main
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.cli._prepared import prepared
    from art_classwise.metrics import what_can_be_told
    from art_classwise.report import write_report
    from art_classwise.studies.radii import parse_threats

    with printing(json) as write, _engine(on, slurm, quiet=quiet or json) as executor:
        write_config(context, save_config)
        radii = () if threat is None else parse_threats(threat)
        asked = prepared(given | ({"threat": radii[0]} if radii else {}))
        sources, data = asked.sources, asked.data
        source = None if surrogate is None else sources.model(surrogate)[1]
        options = asked.options | {"surrogate": source, "executor": executor, "verbose": not quiet}
        on_interrupt(
            context,
            lambda: f"Interrupted: what is finished is kept in {out}, and the same command goes on:\n{command_line()}",
        )
        _check(options, radii or (asked.threat,), data)  # before models are loaded, which may take long
        models, optional = sources.models(model) if executor is None else sources.loaders(model)
        if is_main():
            _say_where_trained(models, radii or (asked.threat,))
            if not (quiet or json):
                say(what_can_be_told(data.y, len(data.classes)))
        given_data = asked.named if executor else data
        if len(radii) > 1:
            sweep = swept(models, given_data, data, radii, options, optional, out)
            if is_main():
                show_sweep(sweep, out, write if json else None, groups, latex)
            return
        result = ClassWiseAudit(store=out, **options).evaluate(models, given_data, optional=optional)
        if not is_main():
            return
        result = with_kept_images(result, models, data, out, verbose=not quiet)
        write_report(result, out)
        show(result, out, write if json else None, groups, latex)


def _check(options: Mapping[str, Any], threats: Sequence[ThreatModel], data: Dataset) -> None:
    """Refuse attacks and radii that an audit would refuse."""
    from math import prod

    from art_classwise.audit import ClassWiseAudit

    ClassWiseAudit(**options)
    threats[-1].check_radius(0.0, 1.0, prod(data.input_shape))


def _say_where_trained(models: Mapping[str, Any], threats: Sequence[ThreatModel]) -> None:
    """Say which checkpoints were trained against something else than they are attacked by."""
    from art_classwise.audit.manifest import ModelSource

    attacked = [str(threat) for threat in threats]
    trained = {name: ModelSource.told_threat(model) for name, model in models.items()}
    others = [
        f"{name} was trained at {at}" for name, at in trained.items() if at is not None and str(at) not in attacked
    ]
    if others:
        say(f"{' and '.join(others)}, but {'is' if len(others) == 1 else 'are'} attacked at {', '.join(attacked)}.")


@contextmanager
def _engine(on: str | None, slurm: Sequence[str] | None, *, quiet: bool) -> Iterator[Executor | None]:
    if on is None:
        if slurm:
            raise InputError("--slurm is for --on slurm.")
        yield None
        return
    from art_classwise._core.executors import open_executor

    with open_executor(on, slurm or ()) as executor:
        if not quiet and (page := getattr(executor, "dashboard", None)):
            print(f"Dask's dashboard: {page}", file=sys.stderr)
        yield executor


def report(
    folder: Annotated[str, typer.Argument(help="The folder of an audit, or its address.", metavar="FOLDER")],
    groups: Groups = None,
    latex: Latex = None,
    json: Json = False,
) -> None:
    """Write an audit's report, figure and table again from its stored outcomes.

    The folder may also be that of an audit at several radii.
    """
    from art_classwise._core.folders import open_folder
    from art_classwise.audit import is_finished, read_audit
    from art_classwise.metrics import class_groups
    from art_classwise.report import write_report
    from art_classwise.studies.radii import radius_folders

    if radius_folders(folder):
        with printing(json) as write:
            show_sweep(reported_again(folder, groups), folder, write if json else None, groups, latex)
        return
    unfinished = not is_finished(folder)
    with printing(json) as write:
        result = read_audit(folder, partial=unfinished)
        if unfinished:
            warnings.warn(f"The audit isn't finished. {' '.join(result.missing)}", stacklevel=1)
        if groups is not None:
            class_groups(groups.value, result.classes)  # whether they fit
        open_folder(folder).check_writable()
        write_report(result, folder)
        show(result, folder, write if json else None, groups, latex)


def show(
    result: AuditResult,
    folder: str | os.PathLike[str],
    write: Writer | None,
    groups: GroupNames | None = None,
    latex: Path | None = None,
) -> None:
    """Show an audit as tables, or as a document."""
    from art_classwise.report import print_tables, report_files
    from art_classwise.report.terminal import print_groups

    files = report_files(folder) | ({} if latex is None else write_latex(latex, result.to_latex()))
    if write is not None:
        write("audit", audit_content(result, files, None if groups is None else groups.value))
        return
    print_tables(result)
    if groups is not None:
        print_groups(result, groups.value)
    say_where(files)
    for root in result.roots:
        print(f"root: {root}")
