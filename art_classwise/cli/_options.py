"""Options that several commands have, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from art_classwise.cli import _completion as completion
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError

__all__ = [
    "ATTACKS",
    "DATA",
    "MODELS",
    "OUTPUT",
    "RUNNING",
    "ClassNames",
    "DatasetName",
    "Device",
    "Format",
    "GroupNames",
    "Groups",
    "ImageSize",
    "JUnit",
    "Json",
    "Latex",
    "ModelDir",
    "Out",
    "Precision",
    "Quiet",
    "Require",
    "Root",
    "Seed",
    "one_radius",
    "say_where",
    "split_names",
    "write_latex",
]

MODELS, DATA, ATTACKS, OUTPUT, RUNNING = "Models", "Data", "Attacks", "Output", "Running"
"""Topics that the help is grouped by."""


class Precision(str, Enum):
    """How searches compute."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class DeviceName(str, Enum):
    """Where networks lie."""

    cpu = "cpu"
    cuda = "cuda"


class Format(str, Enum):
    """Documents that an audit is written as, beside its page."""

    cyclonedx = "cyclonedx"
    card = "card"


class GroupNames(str, Enum):
    """Groups of classes that have a name."""

    cifar100 = "cifar100"
    imagenet = "imagenet"
    imagenet_coarse = "imagenet-coarse"
    transport_animal = "transport-animal"


Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", metavar="DIR", rich_help_panel=OUTPUT)]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Show no progress.", rich_help_panel=OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print only one JSON document on stdout, for scripts.", rich_help_panel=OUTPUT),
]
Latex = Annotated[
    Path | None,
    typer.Option(
        "--latex",
        help="Also write the tables for LaTeX, with booktabs, to this file.",
        metavar="FILE",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        help="Exit with code 4 unless this holds: 'worst >= 0.30', 'class:cat >= 25%', 'mean@pgd-20 >= 0.5', "
        "'clean >= 0.9', 'findings == 0', 'MODEL/gap <= 0.4', 'difference:worst > -0.02' (compare). Lower bounds are "
        "judged by the low end of the interval, or with @estimate by the number itself. Repeat the option.",
        metavar="EXPR",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        help="Write what came of --require to this file, as JUnit XML.",
        metavar="FILE",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Groups = Annotated[
    GroupNames | None,
    typer.Option(
        "--groups",
        help="Also show groups of classes: cifar100, imagenet or imagenet-coarse (superclasses), or transport-animal.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[
    DeviceName | None,
    typer.Option(
        "--device",
        help="Where networks lie. Default: the GPU, if there is one.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.", metavar="N", rich_help_panel=RUNNING)]
ModelDir = Annotated[
    Path,
    typer.Option("--model-dir", help="Folder of RobustBench's weights.", metavar="DIR", rich_help_panel=MODELS),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the data sets. Default: $ART_CLASSWISE_DATA, or data.",
        metavar="DIR",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help=f"{', '.join(DATASETS)}, an .npz file or an image folder.",
        metavar="NAME",
        autocompletion=completion.datasets,
        rich_help_panel=DATA,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        help="For a file or folder: names separated by commas, or a data set with the same class names.",
        metavar="NAMES",
        autocompletion=completion.datasets,
        show_default=False,
        rich_help_panel=DATA,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="Resize images to this many pixels, e.g. 64 for stl10; of a folder, also crop them.",
        metavar="N",
        show_default=False,
        rich_help_panel=DATA,
    ),
]


def split_names(text: str | None) -> str | list[str] | None:
    """Return names with commas between as a list; one alone as it is."""
    return [name.strip() for name in text.split(",")] if text and "," in text else text


def one_radius(flag: str, text: str) -> float:
    """Return a radius that is written as a decimal or a fraction: 0.03, 8/255.

    Raises:
        InputError: It is no number.
    """
    above, _, below = text.strip().partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{flag} takes a radius such as 0.03 or 8/255, but got {text!r}.") from None


def write_latex(path: Path | None, *texts: str) -> dict[str, str]:
    """Write tables for LaTeX, if they are asked for; return where they are, by kind."""
    from art_classwise._core.files import output_file

    if path is None:
        return {}
    with output_file(path, "tables.tex") as aside:
        aside.write_text("\n".join(texts), encoding="utf-8")
    return {"latex": str(path)}


def say_where(files: Mapping[str, object]) -> None:
    """Print what lies where."""
    width = max(9, *(len(what) for what in files))
    for what, path in files.items():
        print(f"{what:<{width}} {path}")
