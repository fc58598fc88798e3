"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import io
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from art_classwise import __version__
from art_classwise.cli._compare import compare
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._images import with_kept_images, with_sources
from art_classwise.cli._inventory import doctor, zoo
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
from art_classwise.cli._train import train
from art_classwise.errors import InputError, printable

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult

__all__ = ["app", "main"]

app = typer.Typer(
    name="art-classwise",
    help="Train, attack and audit image classifiers, class by class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_LINES = "\n"


def main() -> None:
    """Run the command line; what the user got wrong is one line on stderr and exit code 2, a failing disk code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets "?", not an error
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except InputError as error:
        print(f"error: {printable(str(error), keep=_LINES)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {printable(str(error), keep=_LINES)}", file=sys.stderr)
        sys.exit(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {printable(str(message), keep=_LINES)}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"art-classwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train two small networks on handwritten digits, attack them, and show the results class by class."""
    from art_classwise.quickstart import quickstart as run

    with printing(json) as write:
        _show(run(out, seed=seed, verbose=not quiet), out, write if json else None)


app.command()(train)


@app.command()
def audit(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="A checkpoint of `train`, a file of weights (with --arch), hf:ORGANISATION/NAME, robustbench:NAME or "
            "robustbench:DATASET/NAME; repeat the option for more models. MINE=... names the model MINE in tables. "
            "robustbench:all is the whole leaderboard, one model in memory at a time, without models that can't be "
            "downloaded.",
        ),
    ],
    dataset: DatasetName = "digits",
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch",
            help="Architecture of weights that don't say theirs: resnet18, wrn-34-10, torchvision:resnet50, timm:NAME "
            "or FILE.py:CALLABLE, which is run. MODEL=ARCH is for one of the models; repeat the option.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        list[str] | None,
        typer.Option(
            "--mean",
            help="What those networks want subtracted from images in [0, 1], e.g. 0.4914,0.4822,0.4465; or MODEL=...",
            show_default=False,
        ),
    ] = None,
    std: Annotated[
        list[str] | None,
        typer.Option("--std", help="What they then want images divided by; or MODEL=...", show_default=False),
    ] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat",
            help="Norm and radius for images in [0, 1], e.g. Linf:8/255, L2:0.5 or L1:12. Default: usual for the data "
            "set.",
            show_default=False,
        ),
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(
            "--attacks",
            help="A ladder (quick, standard, blackbox), or names separated by commas: fgsm, pgd-20, pgd-100x5, "
            "margin-20, tpgd5-20, autoattack, square, transfer-pgd-20.",
        ),
    ] = "quick",
    surrogate: Annotated[
        str | None,
        typer.Option(
            "--surrogate", help="Source model of transfer attacks, written as for --model.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Precision of the search; verdicts are always float32.")
    ] = Precision.auto,
    examples: Annotated[
        int | None,
        typer.Option("--examples", help="Number of test examples. Default: all.", show_default=False),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="Only examples of this class; repeat the option for more classes.", show_default=False
        ),
    ] = None,
    out: Out = Path("runs/audit"),
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    model_dir: ModelDir = Path("models"),
    worst_case: Annotated[
        bool,
        typer.Option(
            "--worst-case",
            help="Skip examples that an attack has broken: faster, for robust accuracy under all attacks.",
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Examples per batch. Default: chosen by their size.", show_default=False),
    ] = None,
    seed: Seed = 0,
    unsafe_weights: Annotated[
        bool,
        typer.Option(
            "--unsafe-weights", help="Also load RobustBench files that can run code. Use it only for files you trust."
        ),
    ] = False,
    checks: Annotated[
        bool, typer.Option("--checks/--no-checks", help="Also check the networks themselves, on 64 examples.")
    ] = True,
    groups: Groups = None,
    device: Device = None,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Attack models on a test set and report, class by class, how many examples withstand.

    If interrupted, the same command resumes the audit. Several processes of it, or torchrun, share the work.
    """
    from art_classwise._core.distributed import is_main
    from art_classwise.attacks import usual_threat
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.cli._options import Sources, by_model, numbers_by_model
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
            command=shlex.join(["art-classwise", *sys.argv[1:]]),
        )
        models, optional = sources.models(model)
        if is_main() and not (quiet or json):
            print(what_can_be_told(data.y, len(data.classes)), file=sys.stderr)
        result = job.evaluate(models, data, optional=optional)
        if not is_main():
            return
        result = with_kept_images(with_sources(result, models, out), models, data, out, verbose=not quiet)
        write_report(result, out)
        _show(result, out, write if json else None, groups)


@app.command()
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
        _show(result, folder, write if json else None, groups)


def _show(result: AuditResult, folder: Path, write: Writer | None, groups: GroupNames | None = None) -> None:
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


app.command()(compare)
app.command()(zoo)
app.command()(doctor)
