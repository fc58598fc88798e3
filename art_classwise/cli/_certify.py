"""The command ``certify``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_classwise.cli import _audit_options as flags
from art_classwise.cli import _completion as completion
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._interrupt import command_line, on_interrupt
from art_classwise.cli._json import certificate_content, printing
from art_classwise.cli._options import (
    MODELS,
    OUTPUT,
    ClassNames,
    DatasetName,
    Device,
    ImageSize,
    Json,
    ModelDir,
    Quiet,
    Root,
    Seed,
    one_radius,
    say_where,
)
from art_classwise.errors import InputError, unknown

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult
    from art_classwise.certification import CertifiedResult
    from art_classwise.datasets import Dataset

__all__ = ["certify"]

_SMOOTHING = "Randomised smoothing"


def certify(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A model, as for audit: a checkpoint, a file of weights (with --arch), robustbench:NAME or "
            "hf:ORGANISATION/NAME; MINE=MODEL names it MINE.",
            metavar="MODEL",
            show_default=False,
            rich_help_panel=MODELS,
            autocompletion=completion.models,
        ),
    ],
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            help="Standard deviation of the Gaussian noise, in the units of images in [0, 1]: 0.12, 0.25, 0.5. Take "
            "that which the network was trained under. It must be given.",
            metavar="SIGMA",
            show_default=False,
            rich_help_panel=_SMOOTHING,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            help="Noisy samples per example that its radius is computed from; published results use 100,000.",
            metavar="N",
            rich_help_panel=_SMOOTHING,
        ),
    ] = 1000,
    selection: Annotated[
        int,
        typer.Option(
            "--selection", help="Samples that choose its class before.", metavar="N", rich_help_panel=_SMOOTHING
        ),
    ] = 100,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha",
            help="Probability at most that a certificate is wrong.",
            metavar="P",
            rich_help_panel=_SMOOTHING,
        ),
    ] = 0.001,
    radii: Annotated[
        str | None,
        typer.Option(
            "--radii",
            help="Radii (L2) to show, rising, with commas between: 0,0.25,0.5. Default: steps of half the noise.",
            metavar="NUMBERS",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    arch: flags.Architectures = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    model_dir: ModelDir = Path("models"),
    unsafe_weights: flags.UnsafeWeights = False,
    dataset: DatasetName = "digits",
    examples: flags.Examples = None,
    class_: flags.OnlyClasses = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    audit: Annotated[
        str | None,
        typer.Option(
            "--audit",
            help="The folder of an audit of the same model on the same examples: the certificate is kept in it and "
            "shown on its page.",
            metavar="FOLDER",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="Folder for the results, or an address: s3://, gs://, az://. Default: runs/certify, or within that of "
            "--audit.",
            metavar="DIR",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    batch_size: flags.BatchSize = None,
    device: Device = None,
    seed: Seed = 0,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
) -> None:
    """Certify a model's predictions by randomised smoothing: radii within which nothing changes them, class by class.

    Certified is, in L2, the class that the network returns most often under noise. If interrupted, repeat the command.
    """
    given = dict(locals())
    from art_classwise._core.folders import open_folder
    from art_classwise.certification import certify as run
    from art_classwise.certification.kept import certificate_folder
    from art_classwise.cli._early import check_given
    from art_classwise.report.certified import print_certified

    with printing(json) as write:
        check_given(given)
        _check_smoothing(noise, samples, selection, alpha)
        asked = None if radii is None else _radii(radii)
        if audit is not None and out is not None:
            raise InputError(
                "--out is for certificates on their own: with --audit they are kept in the audit's folder."
            )
        write_config(context, save_config)
        sources, data = _prepared(given)
        name, spec = sources.spec(model)
        result = None if audit is None else _audit_of(audit, name, data)
        place = (out or "runs/certify") if audit is None else certificate_folder(audit, name)
        open_folder(place).check_writable()
        if audit is not None:
            _check_kept(audit, name)
        classifier = spec.load(sources.device)
        if result is not None:
            _check_weights(result, name, classifier)
        on_interrupt(
            context,
            lambda: (
                f"Interrupted: what is certified is kept in {place}, and the same command goes on:\n{command_line()}"
            ),
        )
        options: dict[str, Any] = {"noise": noise, "n": samples, "n_selection": selection, "alpha": alpha, "seed": seed}
        found = run(classifier, data, **options, batch_size=batch_size, store=place, verbose=not quiet)
        made = _made(found, asked)
        root = None
        if result is not None and audit is not None:
            root = _keep(found, result, audit, name, made)
        else:
            for file, content in made.items():
                open_folder(place).write(file, content)
        files = _places(place, audit)
        if json:
            write("certificate", certificate_content(found, name, files, asked) | {"root": root})
            return
        print_certified(found, name, asked)
        say_where(files)
        if root is not None:
            print(f"root: {root}")


def _check_smoothing(noise: float | None, samples: int, selection: int, alpha: float) -> None:
    """Refuse, before anything is loaded, what nothing can be certified with."""
    from art_classwise.certification.smoothing import Smoothing
    from art_classwise.errors import check_number, check_positive, check_whole

    if noise is None:
        raise InputError(
            "There is no certificate without noise: give its standard deviation, --noise 0.25, say, that the network "
            "was trained under."
        )
    check_positive("noise", noise)
    check_whole("n", samples, 1)
    check_whole("n_selection", selection, 1)
    check_number("alpha", alpha, 0, 0.5, above=True, below=True)
    if Smoothing(noise, samples, 1, alpha, 0).reach == 0:
        least = math.floor(math.log2(1 / alpha)) + 1
        raise InputError(
            f"With {samples} samples nothing can be certified at --alpha {alpha:g}: take at least {least}."
        )


def _radii(text: str) -> list[float]:
    """Return radii with commas between, as decimals or fractions."""
    from art_classwise.metrics.distances import check_radii

    return check_radii([one_radius("--radii", part) for part in text.split(",")])


def _prepared(given: Mapping[str, Any]) -> tuple[Any, Dataset]:
    """Return where the model comes from, and the examples."""
    from art_classwise.cli._prepared import named_data, sources_of

    sources = sources_of(given, "Linf")  # of RobustBench, whose models are trained without noise anyhow
    sources.check([given["model"]])
    data = named_data(given).load()
    shape, n_classes = data.input_shape, len(data.classes)
    return replace(sources, dataset=data.name, input_shape=shape, n_classes=n_classes), data


def _audit_of(folder: str, name: str, data: Dataset) -> AuditResult:
    """Return the audit that a certificate shall stand beside."""
    from art_classwise.audit import read_audit

    result = read_audit(folder)
    if name not in result.models:
        raise unknown(f"model in the audit {folder}", name, result.models, hint="Name it so: --model NAME=MODEL.")
    rows = result.rows(name)
    if rows["example"].tolist() != data.ids.tolist() or rows["label"].tolist() != data.y.tolist():
        raise InputError(
            f"The audit in {folder} is of other examples: give --dataset, --examples and --class as it was given them."
        )
    return result


def _check_weights(result: AuditResult, name: str, classifier: Any) -> None:
    """Refuse another network than the audit's, before it is certified."""
    from art_classwise.audit.provenance import weights_fingerprint

    source = result.manifest.sources.get(name)
    if source is not None and source.weights != weights_fingerprint(classifier.model):
        raise InputError(f"The audit's {name!r} has other weights than this network: certify the one that was audited.")


def _check_kept(audit: str, name: str) -> None:
    """Refuse to go on from a certificate in an audit's folder that isn't the one its manifest lists."""
    from art_classwise.audit.store import Store, certificates_folder
    from art_classwise.certification.kept import check_as_listed
    from art_classwise.certification.result import FILE

    store, file = Store(audit), f"{certificates_folder(name)}/{FILE}"
    if store.folder.exists(file):
        check_as_listed(store, file)
    elif file in store.manifest().files:
        store.seal()  # removed to be made anew: a half of the new one isn't what was listed


def _made(found: CertifiedResult, radii: Sequence[float] | None) -> dict[str, bytes]:
    """Return table and figure, by the files' names."""
    from art_classwise._core.files import contents
    from art_classwise.certification.result import PICTURE, TABLE
    from art_classwise.report import figures

    table = found.certified_at(None if radii is None else list(radii))
    return contents(
        {
            TABLE: lambda path: table.to_csv(path),
            PICTURE: lambda path: figures.save(figures.certified_by_radius(found), path),
        }
    )


def _keep(found: CertifiedResult, result: AuditResult, audit: str, name: str, made: Mapping[str, bytes]) -> str | None:
    """Keep a certificate in an audit's folder, and write the audit's page anew, on which it and the root stand.

    Returns:
        The root digest; None of an audit that has none.
    """
    from art_classwise._core.fingerprints import digest
    from art_classwise.audit.store import Store
    from art_classwise.certification.kept import keep_certificate
    from art_classwise.report.page import write_report

    sealed = keep_certificate(found, Store(audit), name, made)
    while True:
        # Outcomes that were changed after they were listed have no root digest.
        told = sealed if result.sealed else None
        write_report(replace(result, sealed=() if told is None else (told,)), audit)
        now = Store(audit).sealed()
        if now == sealed:
            return None if told is None else digest(told.encode())
        sealed = now  # another process has certified another model meanwhile


def _places(place: str, audit: str | None) -> dict[str, str]:
    """Return where what lies."""
    from art_classwise._core.folders import open_folder
    from art_classwise.certification.result import FILE, PICTURE, TABLE

    names = {"certificate": FILE, "table": TABLE, "picture": PICTURE}
    files = {what: open_folder(place).where(name) for what, name in names.items()}
    return files if audit is None else {**files, "report": open_folder(audit).where("report.html")}
