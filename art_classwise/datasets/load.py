"""Data sets by name, labelled and unlabelled."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise._core.arrays import as_images
from art_classwise.datasets.catalog import DATASETS, DatasetSpec
from art_classwise.datasets.dataset import Dataset, LazyImages
from art_classwise.datasets.files import image_files, is_grey
from art_classwise.datasets.npz import NpzArrays, open_npz, read_npz
from art_classwise.errors import InputError, check_number, first_line, unknown

__all__ = [
    "Unlabeled",
    "classes_of",
    "known_name",
    "load_dataset",
    "load_unlabeled",
    "read_digits",
    "read_imagenet",
    "read_torchvision",
]


def load_dataset(
    name: str | os.PathLike[str],
    split: str = "test",
    *,
    root: str | os.PathLike[str] | None = None,
    n_examples: int | None = None,
    classes: str | Sequence[str] | None = None,
    image_size: int | None = None,
    imbalance: float | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name, or the user's own from an ``.npz`` file or an image folder.

    Args:
        name: ``"digits"`` (bundled with scikit-learn), ``"mnist"``, ``"cifar10"``, ``"cifar100"``, ``"svhn"``,
            ``"stl10"``, ``"imagenet"``, in any case; or the path of an ``.npz`` file with arrays ``x`` and ``y`` (and
            ``classes``, if you like; ``images`` and ``labels``, ``x_test`` and ``y_test`` and other usual names will
            do), whose labels may be names; or of a folder with one subfolder of images per class, by itself or within
            ``train`` and ``test``.
        split: ``"train"`` or ``"test"`` (of ImageNet, its validation set); of STL-10 also ``"unlabeled"``, whose labels
            are all 0 and mean nothing. Of a path: its folder, or its arrays, of that name, if it has such.
        root: Folder with the downloaded sets; ``$ART_CLASSWISE_DATA``, else ``data``, if absent. ImageNet lies
            in ``root/imagenet/train`` and ``root/imagenet/val``.
        n_examples: How many; see :meth:`Dataset.first`.
        classes: For a path: the class names, or the name of the set whose class names they are.
        image_size: For a folder: resize each image's shorter side to 8/7 of this and crop its centre to this.
        imbalance: Make its classes' numbers fall exponentially, down to this share of the first one's: see
            :meth:`Dataset.long_tailed`. It is for training splits; ``n_examples`` are then taken of what is left.
        download: Whether a missing set may be downloaded (never ImageNet); where from is printed.

    Returns:
        The data set. Image folders are read when indexed, image by image; all else sits in memory.

    Raises:
        InputError: Unknown name or split, missing or unreadable files, images or labels out of range.

    Example:
        >>> data = load_dataset("digits", split="test")
        >>> data.x.shape, data.y.dtype, data.classes[:3]
        ((797, 1, 8, 8), dtype('int64'), ('0', '1', '2'))
    """
    if imbalance is not None:
        check_number("imbalance", imbalance, 0, 1, above=True)
        options: dict[str, Any] = {"root": root, "classes": classes, "image_size": image_size, "download": download}
        tailed = load_dataset(name, split, **options).long_tailed(imbalance)
        return tailed if n_examples is None else tailed.first(n_examples)
    text = known_name(name)
    splits = (DATASETS[text].splits if text in DATASETS else None) or ("train", "test")
    if split not in splits:
        raise unknown("split", split, splits)
    folder = Path(root if root is not None else os.environ.get("ART_CLASSWISE_DATA", "data"))
    if text in DATASETS:
        if classes is not None or (image_size is not None and text != "imagenet"):
            raise InputError(f"{text} has its own class names and image size: they can't be given.")
        data = DATASETS[text].load(folder, split, download, image_size or 224)
    elif Path(text).is_dir():
        data = _image_folder(Path(text), Path(text).name, split, image_size, classes)
    elif text.endswith(".npz"):
        data = _npz(Path(text), split, classes, n_examples)
        n_examples = None if n_examples == len(data) else n_examples
    else:
        raise unknown(
            "data set",
            text,
            DATASETS,
            hint="Or give the path of an .npz file, or of an existing image folder.",
        )
    return data if n_examples is None else data.first(n_examples)


def known_name(name: str | os.PathLike[str]) -> str:
    """Return the name of a data set as it is written here, whatever its case and hyphens; another text as it is."""
    text = os.path.expanduser(os.fspath(name))
    bare = text.lower().replace("-", "").replace("_", "")
    return bare if bare in DATASETS and not os.path.exists(text) else text


def read_digits(spec: DatasetSpec, root: Path, split: str, download: bool, image_size: int) -> Dataset:
    """Return the digits that come with scikit-learn: see :class:`DatasetSpec`, as for the functions below."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    # It has no official split: 1,000 to train, 797 to test, stratified, always the same.
    train, test = train_test_split(np.arange(len(y)), train_size=1000, stratify=y, random_state=0)
    rows = np.sort(train if split == "train" else test)
    images = (x[rows] / 16).astype(np.float32).reshape(-1, *spec.shape)
    return Dataset(images, y[rows].astype(np.int64), spec.class_names, spec.name, split, rows)


def read_torchvision(spec: DatasetSpec, root: Path, split: str, download: bool, image_size: int) -> Dataset:
    """Return a data set that torchvision reads and downloads."""
    from torchvision import datasets

    make, name = getattr(datasets, spec.torchvision), spec.name
    try:
        source = make(root, download=False, **spec.splits[split])
    except RuntimeError as missing:
        how = (
            f"`root` is where it is looked for; fetch it from {spec.url} by hand, or copy a folder that "
            f"torchvision.datasets.{spec.torchvision} made."
        )
        if not download:
            raise InputError(f"{name} ({split}) is not in {root.absolute()}. {how}") from missing
        print(f"Downloading {name} from {spec.url} to {root.absolute()}", file=sys.stderr)
        try:
            source = make(root, download=True, **spec.splits[split])
        except (OSError, RuntimeError) as failed:
            raise InputError(
                f"{name} ({split}) is not in {root.absolute()}, and could not be downloaded "
                f"({first_line(failed)}). {how}"
            ) from failed
    x = np.asarray(source.data)
    y = np.asarray(source.targets if hasattr(source, "targets") else source.labels)
    y = np.zeros(len(y)) if split == "unlabeled" else y  # torchvision's are -1
    names = spec.class_names or tuple(source.classes)
    files = tuple(str(root / spec.folder / file) for file in spec.files.get(split, ()))
    return Dataset(as_images(x, f"{name} ({split})")[0], y.astype(np.int64), names, name, split, files=files)


def read_imagenet(spec: DatasetSpec, root: Path, split: str, download: bool, image_size: int) -> Dataset:
    """Return ImageNet, from two folders that nobody may download for the user."""
    folder = root / spec.folder / spec.files[split][0]
    if not folder.is_dir():
        raise InputError(
            f"imagenet ({split}) is not in {folder.absolute()}: it may not be redistributed. Get it from "
            "https://image-net.org/download.php and unpack it to one folder of images per class (n01440764, ...)."
        )
    data = _image_folder(folder, spec.name, split, image_size, None)
    return replace(data, classes=_imagenet_names(data.classes))


def _imagenet_names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The words for the 1,000 WordNet ids, which come in the same (sorted) order; two words stand twice."""
    from torchvision.models import ResNet18_Weights

    words: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    if len(folders) != len(words):
        return folders
    return tuple(
        f"{word} ({folder})" if words.count(word) > 1 else word for word, folder in zip(words, folders, strict=True)
    )


def _image_folder(
    folder: Path, name: str, split: str, image_size: int | None, classes: str | Sequence[str] | None
) -> Dataset:
    from torchvision.datasets import ImageFolder

    folder = _of_split(folder, split)
    try:
        source = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} must hold one subfolder per class, each with at least one image: {error}"
        ) from error
    paths = [path for path, _ in source.samples]
    # Grey if the first image of every class is; ImageNet's networks take colours, though some images are grey.
    firsts = np.unique(source.targets, return_index=True)[1]
    grey = name != "imagenet" and all(is_grey(paths[i]) for i in firsts)
    x = image_files(paths, grey=grey, image_size=image_size)
    y = np.asarray(source.targets, dtype=np.int64)
    return Dataset(x, y, _class_names(classes, source.classes, len(source.classes)), name, split)


_SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


def _of_split(folder: Path, split: str) -> Path:
    """Return where a split's images are: in a subfolder of its name, where all subfolders are splits; else here."""
    inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    known = [name for names in _SPLITS.values() for name in names]
    if not inside or not inside.keys() <= {*known, "unlabeled"}:
        return folder
    for name in _SPLITS.get(split, (split,)):
        if name in inside:
            return inside[name]
    raise InputError(f"{folder} has the subfolders {', '.join(sorted(inside))}, and none for the split {split!r}.")


_LARGE = 1 << 26  # bytes of images, of which not all are kept where fewer are asked for


def _npz(path: Path, split: str, classes: str | Sequence[str] | None, n_examples: int | None) -> Dataset:
    """Return what an .npz file holds; where it is large and fewer examples are asked for, perhaps only these."""
    arrays = open_npz(path, ("x", "y"), ("classes",), split)
    large = n_examples is not None and arrays.n_bytes("x") > _LARGE and arrays.has_rows("x")
    y, own = arrays["y"], arrays.get("classes")
    x = np.zeros((arrays.shape("x")[0], 1, 1, 1), np.float32) if large else arrays["x"]
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(y) == 0:
        raise InputError(f"{path} is empty: it needs at least one image in x and one label in y.")
    if own is not None and (own.ndim != 1 or len(own) == 0):
        raise InputError(f"{path}: classes must be a list of names, but got shape {own.shape}.")
    found = classes_of(y, str(path)) if own is None else [str(name) for name in own]
    names = _class_names(classes, found, len(found))
    data = Dataset(x, y, names, path.stem, split, files=(str(path),))
    return data if n_examples is None or not large else _few(data, arrays, n_examples)


def _few(labels: Dataset, arrays: NpzArrays, n_examples: int) -> Dataset:
    """Return the first examples of a set of which only the labels are in memory, as if it had been read whole."""
    chosen = labels.first(n_examples).ids
    if len(chosen) == len(labels):
        return replace(labels, x=arrays["x"])
    rows, numbers = arrays.rows("x", chosen)
    some = Dataset(rows, labels.y[numbers], labels.classes, labels.name, labels.split, numbers, labels.files)
    return some.take(np.arange(len(chosen)))


def classes_of(y: npt.NDArray[Any], source: str) -> list[str]:
    """Return the names of the classes that labels are of: the labels' own, if they are texts, else numbers from 0.

    Args:
        y: Texts (n,), class numbers (n,) or (n, 1), or one-hot (n, C).
        source: What to call the data in messages.

    Raises:
        InputError: They aren't labels, or start at 1.
    """
    if y.dtype.kind in "US":
        return sorted(
            {label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in y.ravel()}
        )
    if y.ndim == 2 and y.shape[1] > 1:
        return [str(k) for k in range(y.shape[1])]
    if not np.issubdtype(y.dtype, np.number) or not np.isfinite(y).all():
        raise InputError(f"{source}: labels must be whole numbers or names, but got {y.dtype} such as {y.flat[0]!r}.")
    smallest, largest = int(y.min()), int(y.max())
    if largest >= 10_000:  # no set has as many; a wrapped -1 or a wrong column has
        raise InputError(f"{source}: label {largest} of example {int(y.argmax())} can't be a class number.")
    if smallest == 1 and largest > 1:
        raise InputError(
            f"{source}: the labels start at 1 (they go to {largest}), but classes are numbered from 0: give y - 1, or "
            "the names of all classes, that of 0 included."
        )
    return [str(k) for k in range(max(0, largest) + 1)]


def _class_names(given: str | Sequence[str] | None, found: Sequence[str], n_classes: int) -> tuple[str, ...]:
    if given is None:
        return tuple(found)
    if isinstance(given, str):
        known = {name: spec.class_names for name, spec in DATASETS.items() if spec.class_names}
        if given not in known:
            raise unknown("set of class names", given, known, hint="Or give a list of names.")
        given = known[given]
    if len(given) < n_classes:
        raise InputError(f"The labels have {n_classes} classes, but {len(given)} class names were given.")
    return tuple(given)


_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


class Unlabeled(NamedTuple):
    """Images without labels, as ``fit(x_unlabeled=..., y_pseudo=...)`` takes them.

    Attributes:
        x: float32 (m, C, H, W) in [0, 1]: an array, or :class:`art_classwise.datasets.LazyImages`.
        y_pseudo: Pseudo-labels (m,), where they came with the images.
    """

    x: npt.NDArray[np.float32] | LazyImages
    y_pseudo: npt.NDArray[Any] | None


def load_unlabeled(
    name: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    grey: bool | None = None,
    download: bool = True,
) -> Unlabeled:
    """Load images without labels.

    Args:
        name: The path of an ``.npz`` file with an array ``x``, and perhaps ``y_pseudo``; or of a folder, whose images
            are taken at any depth; or a name that :func:`load_dataset` knows, whose training images are taken and their
            labels not looked at (of STL-10 the 100,000 unlabelled ones).
        root: As for :func:`load_dataset`.
        image_size: For a folder: as for :func:`load_dataset`.
        grey: For a folder: one channel; as the first image is, if absent.
        download: As for :func:`load_dataset`.

    Raises:
        InputError: Unknown name, missing or unreadable files, or there is no image.
    """
    text = known_name(name)
    path = Path(text)
    if text in DATASETS:
        split = "unlabeled" if "unlabeled" in DATASETS[text].splits else "train"
        return Unlabeled(load_dataset(text, split, root=root, image_size=image_size, download=download).x, None)
    if path.is_dir():
        paths = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in _ENDINGS and p.is_file())
        if not paths:
            raise InputError(f"There is no image in {path.absolute()}: files that end with {', '.join(_ENDINGS)}.")
        return Unlabeled(
            image_files(paths, grey=is_grey(paths[0]) if grey is None else grey, image_size=image_size), None
        )
    if text.endswith(".npz"):
        arrays = read_npz(path, ("x",), ("y_pseudo",), "train")
        if arrays["x"].ndim == 0 or len(arrays["x"]) == 0:
            raise InputError(f"{path} is empty: it needs at least one image in x.")
        return Unlabeled(as_images(arrays["x"], str(path))[0], arrays.get("y_pseudo"))
    if path.suffix.lower() in (".pickle", ".pkl"):
        raise InputError(
            f"{text} is a pickle, which may run code when it is read. Convert its arrays once: "
            f"art_classwise.datasets.convert_pickle({text!r}, {str(path.with_suffix('.npz'))!r})."
        )
    raise unknown(
        "data set", text, DATASETS, hint="Or give the path of an .npz file with an array x, or of a folder of images."
    )
