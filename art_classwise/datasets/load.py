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
from art_classwise.datasets.class_names import check_given_names, class_names, classes_of
from art_classwise.datasets.dataset import Dataset, LazyImages
from art_classwise.datasets.files import image_files, is_grey
from art_classwise.datasets.image_folder import ENDINGS, image_folder
from art_classwise.datasets.npz import NpzArrays, open_npz
from art_classwise.datasets.resize import resized
from art_classwise.errors import InputError, check_number, check_whole, first_line, unknown

__all__ = [
    "Unlabeled",
    "known_name",
    "load_dataset",
    "load_unlabeled",
    "read_digits",
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
        image_size: Resize images to so many pixels: 64 is usual for STL-10. Of a folder and of ImageNet, each image's
            shorter side to 8/7 of this, of which the centre is cropped; of other sets, whose images are square, the
            whole image. Both average over pixels (they are antialiased).
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
    text = check_name(name)
    if image_size is not None:
        check_whole("image_size", image_size, 1)
    splits = (DATASETS[text].splits if text in DATASETS else None) or ("train", "test")
    if split not in splits:
        raise unknown("split", split, splits)
    folder = Path(root if root is not None else os.environ.get("ART_CLASSWISE_DATA", "data"))
    if classes is not None:
        check_given_names(classes, text)
    if text in DATASETS:
        data = DATASETS[text].load(folder, split, download, image_size or DATASETS[text].shape[1])
    elif Path(text).is_dir():
        data = image_folder(Path(text), Path(text).name, split, image_size, classes)
    else:
        data = _npz(Path(text), split, classes, n_examples)
        n_examples = None if n_examples == len(data) else n_examples
    data = data if n_examples is None else data.first(n_examples)
    if image_size is None or isinstance(data.x, LazyImages):  # which are of that size already
        return data
    return data.with_images(resized(data.x, image_size, data.name))


def known_name(name: str | os.PathLike[str]) -> str:
    """Return the name of a data set as it is written here, whatever its case and hyphens; another text as it is."""
    text = os.path.expanduser(os.fspath(name))
    if not text:  # else it would be the current folder
        raise unknown("data set", text, DATASETS, hint="Or give the path of an .npz file, or of an image folder.")
    bare = text.lower().replace("-", "").replace("_", "")
    return bare if bare in DATASETS and not os.path.exists(text) else text


def loaded_name(name: str | os.PathLike[str]) -> str:
    """Return the name that a data set will have once it is loaded: see :func:`known_name`; of a file, its stem."""
    text = known_name(name)
    return text if text in DATASETS else Path(text).stem


def check_name(name: str | os.PathLike[str]) -> str:
    """Return the name of a data set as :func:`known_name` does, if it can be one, or the path of a file or folder.

    Raises:
        InputError: It is neither a data set's name, an existing folder nor an ``.npz`` file's path.
    """
    text = known_name(name)
    if text not in DATASETS and not Path(text).is_dir() and not text.endswith(".npz"):
        hint = "Or give the path of an .npz file, or of an existing image folder."
        raise unknown("data set", text, DATASETS, hint=hint)
    return text


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
        needed = ", ".join(str(Path(spec.folder, file)) for file in spec.files.get(split, ())) or spec.folder
        how = (
            f"It needs {needed}; {_there(root)}. `root` is where it is looked for; fetch it from {spec.url} by hand, "
            f"or copy a folder that torchvision.datasets.{spec.torchvision} made. Images in a folder for each class "
            "are read, too: give that folder in place of the name."
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


def _there(folder: Path) -> str:
    """Return what lies in a folder, as part of a sentence."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"it has {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "it is empty"


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
    names = class_names(classes, found, len(found))
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
    pseudo_labels: str | None = None,
    download: bool = True,
) -> Unlabeled:
    """Load images without labels.

    Args:
        name: The path of an ``.npz`` file with an array ``x`` (``image``, ``images``), and perhaps ``y_pseudo``; or of
            a folder, whose images are taken at any depth; or a name that :func:`load_dataset` knows, whose training
            images are taken and their labels not looked at (of STL-10 the 100,000 unlabelled ones).
        root: As for :func:`load_dataset`.
        image_size: As for :func:`load_dataset`.
        grey: For a folder: one channel; as the first image is, if absent.
        pseudo_labels: Name of the array with pseudo-labels in an ``.npz`` file: ``"label"`` in those of images that
            diffusion models generated (Rebuffi et al. 2021, Wang et al. 2023). If absent, ``y_pseudo``; other labels in
            the file aren't looked at.
        download: As for :func:`load_dataset`.

    Raises:
        InputError: Unknown name, missing or unreadable files, there is no image, or no array of that name.
    """
    text = check_unlabeled_name(name, pseudo_labels)
    path = Path(text)
    if text in DATASETS:
        split = "unlabeled" if "unlabeled" in DATASETS[text].splits else "train"
        return Unlabeled(load_dataset(text, split, root=root, image_size=image_size, download=download).x, None)
    if path.is_dir():
        paths = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not paths:
            raise InputError(f"There is no image in {path.absolute()}: files that end with {', '.join(ENDINGS)}.")
        return Unlabeled(
            image_files(paths, grey=is_grey(paths[0]) if grey is None else grey, image_size=image_size), None
        )
    labels = "y_pseudo" if pseudo_labels is None else pseudo_labels
    arrays = open_npz(path, ("x",), (labels,), "train")
    if pseudo_labels is not None and labels not in arrays:
        raise unknown(f"array of {path}", labels, arrays.names, hint="`pseudo_labels` names that of the labels.")
    x, y_pseudo = arrays["x"], arrays.get(labels)
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"{path} is empty: it needs at least one image in x.")
    if y_pseudo is not None and y_pseudo.shape[:1] != (len(x),):
        raise InputError(
            f"{path} holds {len(x):,} images, but {labels} has shape {y_pseudo.shape}: there must be one pseudo-label "
            "per image."
        )
    images = as_images(x, str(path))[0]
    return Unlabeled(images if image_size is None else resized(images, image_size, path.stem), y_pseudo)


def check_unlabeled_name(name: str | os.PathLike[str], pseudo_labels: str | None = None) -> str:
    """Return the name of a data set as :func:`known_name` does, or a path that images without labels may have.

    Args:
        name: As for :func:`load_unlabeled`.
        pseudo_labels: As there.

    Raises:
        InputError: It is neither a data set's name, an existing folder nor an ``.npz`` file's path; or pseudo-labels
            are asked of what isn't such a file.
    """
    text = known_name(name)
    path = Path(text)
    if pseudo_labels is not None and (text in DATASETS or not text.endswith(".npz")):
        raise InputError(f"`pseudo_labels` names an array of an .npz file, but {text} is none.")
    if text in DATASETS or path.is_dir() or text.endswith(".npz"):
        return text
    if path.suffix.lower() in (".pickle", ".pkl"):
        raise InputError(
            f"{text} is a pickle, which may run code when it is read. Convert its arrays once: "
            f"art_classwise.datasets.convert_pickle({text!r}, {str(path.with_suffix('.npz'))!r})."
        )
    raise unknown(
        "data set", text, DATASETS, hint="Or give the path of an .npz file with an array x, or of a folder of images."
    )
