"""The commands ``audit`` and ``report``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from art_classwise.cli._json import Writer, audit_content, printing, requirements_content
from art_classwise.cli._messages import announced, say
from art_classwise.cli._options import (
    OUTPUT,
    ClassNames,
    DatasetName,
    Device,
    Format,
    GroupNames,
    Groups,
    ImageSize,
    Json,
    JUnit,
    Latex,
    ModelDir,
    Precision,
    Quiet,
    Require,
    Root,
    Seed,
    say_where,
    write_latex,
)
from art_classwise.cli._radii import reported_again, show_sweep, swept
from art_classwise.cli._requirements import conclude, required
from art_classwise.errors import InputError

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult, Requirement, Verdicts
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
    attacks: flags.AttackNames = None,
    corruptions: flags.Corruptions = None,
    corruption_dir: flags.CorruptionDir = None,
    worst_case: flags.WorstCase = False,
    checks: flags.Checks = True,
    precision: flags.SearchPrecision = Precision.auto,
    out: flags.Store = "runs/audit",
    groups: Groups = None,
    latex: Latex = None,
    require: Require = None,
    junit: JUnit = None,
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
    requirements = required(require, junit)
    told = f"Loading {dataset} and {model[0] if len(model) == 1 else f'{len(model)} models'} ..."
    loaded = context.with_resource(announced(told, shown=not (quiet or json)))
    from art_classwise._core.distributed import is_main
    from art_classwise.attacks import ladder
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.audit.corrupted import MEAN_CORRUPTION
    from art_classwise.audit.requirements.verdicts import check_names
    from art_classwise.cli._early import check_given
    from art_classwise.cli._prepared import prepared
    from art_classwise.metrics import what_can_be_told
    from art_classwise.report import write_report
    from art_classwise.studies.norms import parse_several

    check_given(given)
    with printing(json) as write:
        write_config(context, save_config)
        radii = () if threat is None else parse_several(threat)
        asked = prepared(given | ({"threat": radii[0]} if radii else {}))
        if len(radii) > 1 and asked.corruptions:
            raise InputError("Corruptions have no radius: ask for them with one --threat, or alone.")
        sources, data = asked.sources, asked.data
        source = None if surrogate is None else sources.model(surrogate)[1]
        if requirements:
            adversaries = asked.adversaries
            names = [] if adversaries is None else list(ladder(adversaries, asked.threat, surrogate=source))
            names += [*asked.corruptions, MEAN_CORRUPTION] if asked.corruptions else []
            check_names(requirements, list(sources.loaders(model)[0]), names, data.classes)
        with _engine(on, slurm, quiet=quiet or json) as executor:
            options = asked.options | {"surrogate": source, "executor": executor, "verbose": not quiet}
            on_interrupt(
                context,
                lambda: (
                    f"Interrupted: what is finished is kept in {out}, and the same command goes on:\n{command_line()}"
                ),
            )
            _check(options, radii or (asked.threat,), data)  # before models are loaded, which may take long
            models, optional = sources.models(model) if executor is None else sources.loaders(model)
            loaded()
            if is_main():
                _say_where_trained(models, radii or (asked.threat,))
                if not (quiet or json):
                    say(what_can_be_told(data.y, len(data.classes)))
            given_data = asked.named if executor else data
            if len(radii) > 1:
                sweep = swept(models, given_data, data, radii, options, optional, out)
                if is_main():
                    verdicts = _judged(sweep.results, requirements, list(models))
                    show_sweep(sweep, out, write if json else None, groups, latex, verdicts)
                    conclude(verdicts, junit, out, as_json=json)
                return
            result = ClassWiseAudit(store=out, **options).evaluate(models, given_data, optional=optional)
            if not is_main():
                return
            result = with_kept_images(result, models, data, out, verbose=not quiet)
            write_report(result, out)
            verdicts = _judged([result], requirements, list(models))
            show(result, out, write if json else None, groups, latex, verdicts)
            conclude(verdicts, junit, out, as_json=json)


def _judged(
    results: Sequence[AuditResult], requirements: Sequence[Requirement], asked: Collection[str]
) -> Verdicts | None:
    """Return what came of requirements of audits, at each radius; None where nothing is required."""
    from art_classwise.audit import Verdicts
    from art_classwise.audit.requirements.verdicts import judge_models

    if not requirements:
        return None
    return Verdicts(
        one for result in results for one in judge_models(result, result.check_results, requirements, asked=asked)
    )


def _check(options: Mapping[str, Any], threats: Sequence[ThreatModel], data: Dataset) -> None:
    """Refuse attacks and radii that an audit would refuse."""
    from math import prod

    from art_classwise.audit import ClassWiseAudit

    ClassWiseAudit(**options)
    for threat in threats:
        threat.check_radius(0.0, 1.0, prod(data.input_shape))


def _say_where_trained(models: Mapping[str, Any], threats: Sequence[ThreatModel]) -> None:
    """Say which checkpoints were trained against something else than they are attacked by."""
    if not threats[0].is_ball:
        return
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
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            help="Also write cyclonedx, a bill of materials (CycloneDX 1.7) with class accuracies, to bom.cdx.json, "
            "or card, a model card as the Hugging Face hub reads it, to README.md. Repeat the option for both.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="The model's licence, for --format, e.g. apache-2.0: an audit doesn't know it.",
            metavar="ID",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The model that --format card is of, where there are several.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    require: Require = None,
    junit: JUnit = None,
    json: Json = False,
) -> None:
    """Write an audit's report, figure and table again from its stored outcomes.

    The folder may also be that of an audit at several radii or in several norms.
    """
    from art_classwise._core.folders import open_folder
    from art_classwise.audit import is_finished, read_audit
    from art_classwise.cli._early import check_given
    from art_classwise.metrics import class_groups
    from art_classwise.report import write_report
    from art_classwise.studies.radii import radius_folders

    requirements = required(require, junit)
    _check_formats(formats or (), license_, model)
    check_given({"latex": latex})
    if radius_folders(folder):
        with printing(json) as write:
            sweep = reported_again(folder, groups)
            verdicts = _judged(list(sweep.results), requirements, list(sweep.results[0].models))
            show_sweep(sweep, folder, write if json else None, groups, latex, verdicts)
            conclude(verdicts, junit, folder, as_json=json)
        return
    unfinished = not is_finished(folder)
    with printing(json) as write:
        result = read_audit(folder, partial=unfinished)
        if unfinished:
            warnings.warn(f"The audit isn't finished. {' '.join(result.missing)}", stacklevel=1)
        if groups is not None:
            class_groups(groups.value, result.classes)  # whether they fit
        open_folder(folder).check_writable()
        verdicts = _judged([result], requirements, ())
        documents = _documents(result, formats or (), license_, model)
        write_report(result, folder)
        for name, text in documents.values():
            open_folder(folder).write(name, text.encode())
        files = {kind: open_folder(folder).where(name) for kind, (name, _) in documents.items()}
        show(result, folder, write if json else None, groups, latex, verdicts, files)
        conclude(verdicts, junit, folder, as_json=json)


def _check_formats(formats: Sequence[Format], license: str | None, model: str | None) -> None:
    """Refuse options of documents that aren't asked for, before an audit is read."""
    if Format.card not in formats and model is not None:
        raise InputError("--model is for --format card.")
    if not formats and license is not None:
        raise InputError("--license is for --format card or cyclonedx.")


def _documents(
    result: AuditResult, formats: Sequence[Format], license: str | None, model: str | None
) -> dict[str, tuple[str, str]]:
    """Return names and contents of documents, by their format."""
    from art_classwise.report import cyclonedx, model_card

    made: dict[str, tuple[str, str]] = {}
    if Format.cyclonedx in formats:
        made["cyclonedx"] = "bom.cdx.json", cyclonedx(result, license)
    if Format.card in formats:
        made["card"] = "README.md", model_card(result, model, license=license)
    return made


def show(
    result: AuditResult,
    folder: str | os.PathLike[str],
    write: Writer | None,
    groups: GroupNames | None = None,
    latex: Path | None = None,
    verdicts: Verdicts | None = None,
    others: Mapping[str, str] | None = None,
) -> None:
    """Show an audit as tables, or as a document."""
    from art_classwise.report import print_tables, report_files
    from art_classwise.report.terminal import print_groups

    files = report_files(folder) | dict(others or {}) | ({} if latex is None else write_latex(latex, result.to_latex()))
    if write is not None:
        content = audit_content(result, files, None if groups is None else groups.value)
        write("audit", content | requirements_content(verdicts))
        return
    print_tables(result)
    if groups is not None:
        print_groups(result, groups.value)
    say_where(files)
    for root in result.roots:
        print(f"root: {root}")
