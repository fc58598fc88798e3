"""The command ``verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise.cli import _audit_options as flags
from art_classwise.cli._interrupt import on_interrupt
from art_classwise.cli._json import printing
from art_classwise.cli._options import Device, Json, ModelDir, Quiet, Root
from art_classwise.errors import InputError, check_seed, printable

__all__ = ["verify"]

_DIFFERS = 3
_ANEW, _EVIDENCE = "Computing units anew", "Attestation"


def verify(
    context: typer.Context,
    place: Annotated[
        str,
        typer.Argument(
            help="The folder of an audit, its address, or the page in it.", metavar="STORE|REPORT", show_default=False
        ),
    ],
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="DIGEST", help="The root digest that the audit's maker published."),
    ] = None,
    recompute: Annotated[
        str | None,
        typer.Option(
            "--recompute",
            metavar="SHARE",
            help="Compute this share of the units anew, drawn at random: 1%, 0.01; of a certificate, up to 8 examples.",
            rich_help_panel=_ANEW,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]SOURCE",
            help="To compute anew: where a model is, as for audit. Needed where nothing was planned.",
            rich_help_panel=_ANEW,
        ),
    ] = None,
    arch: flags.Architectures = None,
    model_dir: ModelDir = Path("models"),
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "--data",
            help="To compute anew: the examples, as for audit; the audit's own data set if absent.",
            rich_help_panel=_ANEW,
        ),
    ] = None,
    data_dir: Root = None,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Allow what a plan holds of code. Only for plans of people you trust.",
            rich_help_panel=_ANEW,
        ),
    ] = False,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Of the draw; nobody's choice if absent.", rich_help_panel=_ANEW),
    ] = None,
    attest: Annotated[
        Path | None,
        typer.Option(
            "--attest", metavar="FILE", help="Write what was found as an in-toto statement.", rich_help_panel=_EVIDENCE
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign",
            metavar="KEY.pem",
            help="Sign the statement with an elliptic-curve key, into FILE.sig (needs model-signing).",
            rich_help_panel=_EVIDENCE,
        ),
    ] = None,
    signed: Annotated[
        Path | None,
        typer.Option(
            "--attestation",
            metavar="FILE",
            help="Check that a statement is of this audit, and its signature, FILE.sig, if --key is given.",
            rich_help_panel=_EVIDENCE,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PUBLIC.pem", help="The public key of who signed.", rich_help_panel=_EVIDENCE),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that an audit is what was written: files, rows, page and, drawn at random, units computed anew.

    Exit code 0 if nothing differs, 3 if something does.
    """
    from art_classwise import evidence
    from art_classwise.cli._early import check_given
    from art_classwise.evidence.checking import checked_root

    with printing(json) as write:
        if sign is not None and attest is None:
            raise InputError("--sign is for the statement that --attest FILE writes.")
        if key is not None and signed is None:
            raise InputError("--key is for the statement of --attestation FILE.")
        if root is not None:
            checked_root(root)
        if seed is not None:
            check_seed(seed)
        share = None if recompute is None else _share(recompute)
        if share is None and (model or dataset):
            raise InputError("--model and --dataset are for --recompute SHARE.")
        check_given({"dataset": dataset, "arch": arch or None})
        on_interrupt(context, lambda: "Interrupted: nothing was changed.")
        given: dict[str, Any] = {}
        if share is not None:
            given = {"recompute": share, "seed": seed, "run_code": run_code, "verbose": not (quiet or json)}
            given |= _sources(place, model, arch, model_dir, dataset, data_dir, device)
        found = evidence.verify(place, root=root, **given)
        of_statement = [] if signed is None else evidence.attestation_differences(signed, found, key=key)
        differences = [*(said for of in found.differences.values() for said in of), *of_statement]
        if attest is not None:
            evidence.write_attestation(attest, place, found, key=sign)
        if json:
            write("verification", evidence.document(found) | {"differences": differences, "ok": not differences})
        else:
            print(found)
            for said in of_statement:
                print(printable(f"  {said}"))
    if differences:
        sys.stdout.flush()
        raise typer.Exit(_DIFFERS)


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise InputError(f"--recompute takes a share of the units above 0, such as 1% or 0.01, not {text!r}.")
    return value


def _sources(
    place: str,
    model: list[str] | None,
    arch: list[str] | None,
    model_dir: Path,
    dataset: str | None,
    data_dir: Path | None,
    device: Any,
) -> dict[str, Any]:
    """Return models and examples that are given, as :func:`art_classwise.verify` takes them."""
    from art_classwise.audit.plan import NamedData
    from art_classwise.audit.store import Store
    from art_classwise.cli._sources import Sources, by_model
    from art_classwise.datasets.load import known_name

    folder = Path(place).parent if Path(place).is_file() else place
    manifest = Store(folder).manifest()
    given: dict[str, Any] = {}
    examples = manifest.examples
    if dataset is not None or (manifest.plan is None):
        named = NamedData(
            name=known_name(dataset or examples.dataset),
            split=examples.split,
            root=None if data_dir is None else str(data_dir),
        )
        given["data"] = named.load()
    if model:
        sources = Sources(
            examples.dataset,
            manifest.threat.norm,
            model_dir,
            False,
            by_model(arch),
            {},
            {},
            None if device is None else device.value,
            n_classes=len(manifest.classes),
            input_shape=given["data"].input_shape if "data" in given else None,
        )
        sources.check(model)
        given["models"], _ = sources.loaders(model)
    return given
