"""Labelled images in whatever form people hold them, as a :class:`Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.arrays import as_array
from art_classwise._core.labels import check_class_names
from art_classwise.datasets.catalog import DATASETS
from art_classwise.datasets.class_names import classes_of
from art_classwise.datasets.dataset import Dataset
from art_classwise.datasets.load import load_dataset
from art_classwise.errors import InputError

__all__ = ["as_dataset"]

_IMAGES = ("x", "image", "images", "img", "pixel_values", "data", "inputs")
_LABELS = ("y", "label", "labels", "target", "targets", "fine_label", "class")
_ADVICE = (
    "Give a Dataset, a name or path as for load_dataset, a pair (x, y), a dict with x and y, a torch data set or "
    "DataLoader of (image, label), or a Hugging Face data set."
)


def as_dataset(data: Any, classes: Sequence[str] | None = None, *, n_classes: int | None = None) -> Dataset:
    """Return labelled images as a :class:`Dataset`.

    Args:
        data: A :class:`Dataset`; a name or path, as for :func:`load_dataset`; ``(x, y)``, arrays, tensors, pandas
            objects or lists; a dict of them; a torch data set, which is read into memory once, or a ``DataLoader``,
            whose data set is read in order; or a Hugging Face data set.
        classes: The class names; if absent those that the data say, else numbers.
        n_classes: How many classes there are, where nothing says it: as many as labels need, if absent.

    Raises:
        InputError: It is none of these; or as :class:`Dataset`.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, os.PathLike)):
        return load_dataset(data, classes=classes)
    if classes is not None:
        check_class_names(classes)
    name, held = "data", None
    if isinstance(data, Mapping):
        x, y = _named(data, _IMAGES, "images"), _named(data, _LABELS, "labels")
    elif isinstance(data, (tuple, list)) and len(data) == 2:
        x, y = data
    else:
        x, y, held, name = _read_items(data)
    labels = as_array(y, "y", texts=True)
    if classes is None:
        classes = held if held is not None else classes_of(labels, "y")
        if held is None and n_classes is not None and labels.dtype.kind not in "US" and len(classes) < n_classes:
            classes = [str(k) for k in range(n_classes)]
    return Dataset(x, labels, tuple(classes), name)


def _named(data: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    found = next((data[name] for name in names if name in data), None)
    if found is None:
        raise InputError(
            f"The data have no {what}: their keys are {', '.join(map(str, data))}, and one must be {', '.join(names)}."
        )
    return found


def _read_items(data: Any) -> tuple[list[Any], list[Any], list[str] | None, str]:
    """Read a torch or Hugging Face data set, or a loader's; return images, labels, class names and a name."""
    loader = type(data).__name__ == "DataLoader" and hasattr(data, "dataset")
    source = data.dataset if loader else data
    if not hasattr(source, "__getitem__") and not hasattr(source, "__iter__"):
        raise InputError(f"A {type(data).__name__} is no labelled images. {_ADVICE}")
    pairs = [_pair(item, i) for i, item in enumerate(_items(source))]
    if not pairs:
        raise InputError("The data set is empty: it needs at least one example.")
    again = _pair(next(iter(_items(source))), 0)
    if not np.array_equal(as_array(again[0], "x"), as_array(pairs[0][0], "x")):
        raise InputError(
            "The first image is another one when it is read again: take random transforms out of the data set, so that "
            "all models are tried on the same images."
        )
    root = source
    while hasattr(root, "dataset"):  # a Subset of a Subset of one
        root = root.dataset
    name = type(root).__name__.lower()
    x, y = ([pair[i] for pair in pairs] for i in (0, 1))
    return x, y, _class_names(root), name if name in DATASETS else "data"


def _items(source: Any) -> Iterator[Any]:
    try:
        size = len(source)
    except TypeError:  # an iterable data set
        yield from source
        return
    yield from (source[i] for i in range(size)) if hasattr(source, "__getitem__") else islice(source, size)


def _pair(item: Any, number: int) -> tuple[npt.NDArray[Any], Any]:
    if isinstance(item, Mapping):
        x, y = _named(item, _IMAGES, "images"), _named(item, _LABELS, "labels")
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        x, y = item[0], item[1]
    else:
        raise InputError(
            f"Item {number} of the data set must be a pair (image, label) or a dict of these, but is a "
            f"{type(item).__name__}. {_ADVICE}"
        )
    image = as_array(x, f"image {number}")
    if image.ndim == 2:
        image = image[None]
    label = as_array(y, f"label {number}", texts=True)
    if image.ndim != 3 or label.ndim > 1 or (label.ndim == 1 and label.size == 0):
        raise InputError(
            f"Item {number} of the data set must be one image (C, H, W) and its label, but holds arrays of shape "
            f"{image.shape} and {label.shape}."
        )
    return image, label


def _class_names(source: Any) -> list[str] | None:
    """Return the class names that a torch data set (torchvision's) or a Hugging Face one says."""
    names = getattr(source, "classes", None)
    features = getattr(source, "features", None)
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[k], "names", None) for k in _LABELS if k in features), None)
    if isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names) and len(set(names)) == len(names):
        return list(names)
    return None
