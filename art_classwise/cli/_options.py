"""Options that several commands have, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError

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
    "check_named",
    "load_model",
    "models_named",
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
        help=f"{', '.join(DATASETS)}, an .npz file or an image folder.",
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


_ALL = "all"
_IN_ROBUSTBENCH = {spec.robustbench for spec in DATASETS.values()}


def check_named(texts: Sequence[str], dataset: str, norm: str) -> None:
    """Check, before data and weights are read, that models may be there.

    Args:
        texts: As for :func:`models_named`.
        dataset: The data set's name, or where it lies.
        norm: RobustBench's threat model.

    Raises:
        InputError: A text names no model, no file that is there, or none of RobustBench's models.
    """
    from art_classwise.zoo.robustbench import check_model

    for text in texts:
        _, source = _parted(text)
        zoo, name = _in_zoo(source, dataset)
        if not name and not Path(source).is_file():
            what = "There is no file" if source.endswith(".pt") else "Unknown model"
            raise InputError(f"{what} {source!r}. Give the file of a checkpoint (*.pt), or robustbench:NAME.")
        if name and name != _ALL and zoo in _IN_ROBUSTBENCH:  # a file or folder has a name of its own, not known yet
            check_model(name, zoo, norm)


def models_named(
    texts: Sequence[str], dataset: str, norm: str, model_dir: Path, unsafe_weights: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return models by the names they have in tables, as :meth:`ClassWiseAudit.evaluate` takes them.

    Args:
        texts: Each FILE.pt, robustbench:NAME, robustbench:DATASET/NAME or robustbench:all, with NAME= before it or not.
        dataset: RobustBench's, where a text names none.
        norm: RobustBench's threat model.
        model_dir: Folder of RobustBench's weights.
        unsafe_weights: Load RobustBench's files that can run code, too.

    Returns:
        Models, and of a whole leaderboard functions that load them; and the names of the latter, which may be lacking.

    Raises:
        InputError: A text names no model, or a name stands twice; or a model named by itself can't be loaded.
    """
    from art_classwise.zoo import load_robustbench, robustbench_names

    models: dict[str, Any] = {}
    optional: list[str] = []
    for text in texts:
        label, source = _parted(text)
        zoo, name = _in_zoo(source, dataset)
        if name != _ALL:
            loaded = dict([load_model(text, dataset, norm, model_dir, unsafe_weights)])
        elif label:
            raise InputError(f"{text!r} gives many models the same name: remove {label}=.")
        else:
            options: dict[str, Any] = {"unsafe_weights": unsafe_weights}
            names = robustbench_names(zoo, norm)
            loaded = {n: partial(load_robustbench, n, zoo, norm, model_dir, **options) for n in names}
            optional += names
        twice = next((n for n in loaded if n in models), None)
        if twice is not None:
            raise InputError(f"Two models are named {twice!r}: rename one, e.g. --model mine={source}")
        models |= loaded
    return models, optional


def load_model(text: str, dataset: str, norm: str, model_dir: Path, unsafe_weights: bool) -> tuple[str, Any]:
    """Return a model's name and the model; arguments as for :func:`models_named`.

    Raises:
        InputError: The text names no model, or it can't be loaded.
    """
    from art_classwise.zoo import load_checkpoint, load_robustbench

    label, source = _parted(text)
    zoo, name = _in_zoo(source, dataset)
    if name:
        return label or name, load_robustbench(name, zoo, norm, model_dir, unsafe_weights=unsafe_weights)
    return label or Path(source).stem, load_checkpoint(source)


def _parted(text: str) -> tuple[str, str]:
    """Part NAME=SOURCE; a file may have a "=" in its own name."""
    label, separator, source = text.partition("=")
    return (label, source) if separator and not Path(text).is_file() else ("", text)


def _in_zoo(source: str, dataset: str) -> tuple[str, str]:
    """Return data set and name of one of RobustBench's models; no name for others."""
    kind, _, name = source.partition(":")
    if kind != "robustbench" or not name:
        return dataset, ""
    zoo, slash, short = name.rpartition("/")
    return (zoo if slash else dataset), short
