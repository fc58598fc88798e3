"""The commands ``audit`` and ``report``."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from art_classwise.cli import _audit_options as flags
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._images import with_kept_images, with_sources
from art_classwise.cli._interrupt import command_line, on_interrupt
from art_classwise.cli._json import Writer, audit_content, printing
from art_classwise.cli._options import (
    ClassNames,
    DatasetName,
    Device,
    GroupNames,
    Groups,
    ImageSize,
    Json,
    ModelDir,
    Out,
    Precision,
    Quiet,
    Root,
    Seed,
    say_where,
    split_names,
)

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult

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
    out: Out = Path("runs/audit"),
    groups: Groups = None,
    json: Json = False,
    quiet: Quiet = False,
    batch_size: flags.BatchSize = None,
    device: Device = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
) -> None:
    """Attack models on a test set and report, class by class, how many examples withstand.

    If interrupted, the same command resumes the audit. Several processes of it, or torchrun, share the work.
    """
    from art_classwise._core.distributed import is_main
    from art_classwise.attacks import usual_threat
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.cli._sources import Sources, by_model, numbers_by_model
    from art_classwise.datasets import load_dataset
    from art_classwise.metrics import class_groups, what_can_be_told
    from art_classwise.report import write_report
    from art_classwise.threat import ThreatModel

    with printing(json) as write:
        write_config(context, save_config)
        names = [a.strip() for a in attacks.split(",")]
        norm = "Linf" if threat is None else ThreatModel.parse(threat).norm
        sources = Sources(
            dataset,
            norm,
            model_dir,
            unsafe_weights,
            by_model(arch),
            numbers_by_model("--mean", mean),
            numbers_by_model("--std", std),
            None if device is None else device.value,
        )
        sources.check([*model, *([] if surrogate is None else [surrogate])])
        data = load_dataset(dataset, "test", root=data_dir, classes=split_names(class_names), image_size=image_size)
        if groups is not None:
            class_groups(groups.value, data.classes)  # whether they fit
        data = data.of_classes(class_) if class_ else data
        data = data.first(examples) if examples is not None else data
        ball = ThreatModel.parse(threat) if threat is not None else usual_threat(data.name)

        sources = replace(
            sources, dataset=data.name, norm=ball.norm, input_shape=data.input_shape, n_classes=len(data.classes)
        )
        job = ClassWiseAudit(
            threat,
            names[0] if len(names) == 1 else names,
            surrogate=None if surrogate is None else sources.model(surrogate)[1],
            precision=precision.value,
            worst_case=worst_case,
            store=out,
            seed=seed,
            batch_size=batch_size,
            checks=checks,
            verbose=not quiet,
            command=command_line(),
        )
        on_interrupt(
            context,
            lambda: f"Interrupted: what is finished is kept in {out}, and the same command goes on: {command_line()}",
        )
        models, optional = sources.models(model)
        if is_main() and not (quiet or json):
            print(what_can_be_told(data.y, len(data.classes)), file=sys.stderr)
        result = job.evaluate(models, data, optional=optional)
        if not is_main():
            return
        result = with_kept_images(with_sources(result, models, out), models, data, out, verbose=not quiet)
        write_report(result, out)
        show(result, out, write if json else None, groups)


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of an audit.")],
    groups: Groups = None,
    json: Json = False,
) -> None:
    """Write an audit's report, figure and table again from its stored outcomes."""
    from art_classwise._core.files import check_output_folder
    from art_classwise.audit import is_finished, read_audit
    from art_classwise.metrics import class_groups
    from art_classwise.report import write_report

    unfinished = not is_finished(folder)
    with printing(json) as write:
        result = read_audit(folder, partial=unfinished)
        if unfinished:
            message = "The audit isn't finished: results cover only examples on which all attacks have finished."
            warnings.warn(message, stacklevel=1)
        if groups is not None:
            class_groups(groups.value, result.classes)  # whether they fit
        check_output_folder(folder)
        write_report(result, folder)
        show(result, folder, write if json else None, groups)


def show(result: AuditResult, folder: Path, write: Writer | None, groups: GroupNames | None = None) -> None:
    """Show an audit as tables, or as a document."""
    from art_classwise.report import print_tables, report_files
    from art_classwise.report.terminal import print_groups

    files = report_files(folder)
    if write is not None:
        write("audit", audit_content(result, files, None if groups is None else groups.value))
        return
    print_tables(result)
    if groups is not None:
        print_groups(result, groups.value)
    say_where(files)
