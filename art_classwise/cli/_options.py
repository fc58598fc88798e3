"""Options that several commands have, and what they share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ClassNames",
    "DatasetName",
    "GroupNames",
    "Groups",
    "ImageSize",
    "Json",
    "ModelDir",
    "Out",
    "Precision",
    "Quiet",
    "Root",
    "Seed",
    "say_where",
    "split_names",
]


class Precision(str, Enum):
    """How searches compute."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class GroupNames(str, Enum):
    """Groups of classes that have a name."""

    cifar100 = "cifar100"
    transport_animal = "transport-animal"


Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", show_default=True)]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Show no progress bars. Without a terminal, as in CI, none are shown anyway."),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print only one JSON document on stdout, for scripts."),
]
Groups = Annotated[
    GroupNames | None,
    typer.Option(
        "--groups",
        help="Also show groups of classes: CIFAR-100's superclasses, or transport and animals.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
ModelDir = Annotated[Path, typer.Option("--model-dir", help="Folder of RobustBench's weights.")]
Root = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder of the data sets. Default: $ART_CLASSWISE_DATA, or data.", show_default=False
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="digits, mnist, cifar10, cifar100, svhn, stl10, imagenet, an .npz file or an image folder.",
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        help="For a file or folder: names separated by commas, or a data set with the same class names.",
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="For a folder: resize and crop images to this many pixels.", show_default=False),
]


def split_names(text: str | None) -> str | list[str] | None:
    """Return names with commas between as a list; one alone as it is."""
    return [name.strip() for name in text.split(",")] if text and "," in text else text


def say_where(files: dict[str, Path]) -> None:
    """Print what lies where."""
    width = max(9, *(len(what) for what in files))
    for what, path in files.items():
        print(f"{what:<{width}} {path}")
