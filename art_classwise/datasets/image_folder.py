"""Folders of images, a subfolder for each class; ImageNet's among them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from art_classwise.datasets.catalog import DatasetSpec
from art_classwise.datasets.class_names import folder_classes
from art_classwise.datasets.dataset import Dataset
from art_classwise.datasets.files import image_files, is_grey
from art_classwise.errors import InputError

__all__ = ["ENDINGS", "image_folder", "imagenet_ids", "read_imagenet"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""How the names of image files end."""


def read_imagenet(spec: DatasetSpec, root: Path, split: str, download: bool, image_size: int) -> Dataset:
    """Return ImageNet, from two folders that nobody may download for the user."""
    folder = root / spec.folder / spec.files[split][0]
    if not folder.is_dir():
        raise InputError(
            f"imagenet ({split}) is not in {folder.absolute()}: it may not be redistributed. Get it from "
            "https://image-net.org/download.php and unpack it to one folder of images per class (n01440764, ...)."
        )
    data = image_folder(folder, spec.name, split, image_size, None)
    ids = imagenet_ids()
    if len(data.classes) == len(ids) and not all(name.isdecimal() for name in data.classes):
        ids = data.classes  # sorted, as the classes are numbered
    number_of = {wordnet: number for number, wordnet in enumerate(ids)}
    # Some of the classes, or numbers in place of ids, which come as texts: 0, 1, 10, 100, ...
    numbers = [number_of.get(name, int(name) if name.isdecimal() else -1) for name in data.classes]
    strangers = [name for name, k in zip(data.classes, numbers, strict=True) if not 0 <= k < len(ids)]
    if strangers or len({*numbers}) < len(numbers):
        raise InputError(
            f"{folder.absolute()} has {len(numbers):,} subfolders, of which {(strangers or data.classes)[-1]!r} is no "
            "class of ImageNet, or one that is there twice: they must be named by WordNet's ids (n01440764, ...) or by "
            "the classes' numbers, 0 to 999. To use another set of images, give its folder in place of the name."
        )
    y = np.array(numbers)[data.y]
    by_class = np.argsort(y, kind="stable")
    return replace(data, x=data.x.take(by_class), y=y[by_class], classes=_imagenet_names(ids))


def _imagenet_names(ids: Sequence[str]) -> tuple[str, ...]:
    """Return the words for the 1,000 WordNet ids, which come in the same (sorted) order; two words stand twice."""
    from torchvision.models import ResNet18_Weights

    words: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return tuple(
        f"{word} ({wordnet})" if words.count(word) > 1 else word for word, wordnet in zip(words, ids, strict=True)
    )


@cache
def imagenet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes in their order, as RobustBench's files have them."""
    spec = importlib.util.find_spec("robustbench")  # which isn't imported: that takes seconds
    assert spec is not None  # it is required
    assert spec.origin is not None
    path = Path(spec.origin).parent / "helper_files" / "imagenet_class_to_id_map.json"
    number_of: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(sorted(number_of, key=number_of.__getitem__))


def image_folder(
    folder: Path, name: str, split: str, image_size: int | None, classes: str | Sequence[str] | None
) -> Dataset:
    """Return a folder of images: the arguments are :func:`art_classwise.load_dataset`'s.

    Raises:
        InputError: Its layout is another one, or an image can't be read.
    """
    from torchvision.datasets import ImageFolder

    folder = _of_split(folder, split)
    _check_layout(folder, name)
    try:
        source = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} must hold one subfolder per class, each with at least one image: {error}"
        ) from error
    if len(source.classes) == 1 and classes is None and name != "imagenet":
        (only,) = source.classes
        below = sorted(path.name for path in (folder / only).iterdir() if path.is_dir())
        raise InputError(
            f"{folder} holds one subfolder only, {only!r}, which would be the only class"
            + (
                f". That one holds {', '.join(below[:3])}, ...: if these are the classes, give {folder / only}."
                if below
                else ": its images need labels, a subfolder for each class."
            )
        )
    paths = [path for path, _ in source.samples]
    # Grey if the first image of every class is; ImageNet's networks take colours, though some images are grey.
    firsts = np.unique(source.targets, return_index=True)[1]
    grey = name != "imagenet" and all(is_grey(paths[i]) for i in firsts)
    x = image_files(paths, grey=grey, image_size=image_size)
    names, numbers = folder_classes(classes, source.classes, str(folder))
    return Dataset(x, np.array(numbers, dtype=np.int64)[source.targets], names, name, split)


_SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


def _of_split(folder: Path, split: str) -> Path:
    """Return where a split's images are: in a subfolder of its name, where all subfolders are splits; else here."""
    inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    known = [name for names in _SPLITS.values() for name in names]
    if not inside.keys() <= {*known, "unlabeled"}:
        # Beside the splits may lie annotations, say; but a class may be called train, as in CIFAR-100.
        inside = {name: path for name, path in inside.items() if name in known and _holds_classes(path)}
    if not inside:
        return folder
    for name in _SPLITS.get(split, (split,)):
        if name in inside:
            return inside[name]
    raise InputError(f"{folder} has the subfolders {', '.join(sorted(inside))}, and none for the split {split!r}.")


def _holds_classes(folder: Path) -> bool:
    """Return whether a folder holds subfolders, and no image beside them."""
    paths = list(folder.iterdir())
    return any(path.is_dir() for path in paths) and not any(path.suffix.lower() in ENDINGS for path in paths)


def _check_layout(folder: Path, name: str) -> None:
    """Refuse images that no subfolder gives a class."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = [path for path in paths if path.suffix.lower() in ENDINGS]
    if images and not any(path.is_dir() for path in paths):
        raise InputError(
            f"{folder} holds {len(images):,} images without labels ({images[0].name}, ...): it must hold one subfolder "
            "per class. "
            + (
                "ImageNet's archive of validation images has none: move each image into the folder of its class, as "
                "torchvision.datasets.ImageNet does with the development kit, ILSVRC2012_devkit_t12.tar.gz."
                if name == "imagenet"
                else "Or write images and labels to an .npz file: numpy.savez(path, x=images, y=labels)."
            )
        )
