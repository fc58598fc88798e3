"""Images without labels, for semi-supervised training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise.datasets.dataset import LazyImages
from art_classwise.datasets.files import image_files, is_grey, read_npz, to_float
from art_classwise.datasets.load import DATASETS, load_dataset
from art_classwise.errors import InputError, unknown

__all__ = ["Unlabeled", "load_unlabeled"]

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
    text = os.path.expanduser(os.fspath(name))
    path = Path(text)
    if text in DATASETS:
        split = "unlabeled" if text == "stl10" else "train"
        return Unlabeled(load_dataset(text, split, root=root, image_size=image_size, download=download).x, None)
    if path.is_dir():
        paths = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in _ENDINGS and p.is_file())
        if not paths:
            raise InputError(f"There is no image in {path.absolute()}: files that end with {', '.join(_ENDINGS)}.")
        return Unlabeled(
            image_files(paths, grey=is_grey(paths[0]) if grey is None else grey, image_size=image_size), None
        )
    if text.endswith(".npz"):
        arrays = read_npz(path, ("x",), ("y_pseudo",))
        if arrays["x"].ndim == 0 or len(arrays["x"]) == 0:
            raise InputError(f"{path} is empty: it needs at least one image in x.")
        return Unlabeled(to_float(arrays["x"], str(path)), arrays.get("y_pseudo"))
    raise unknown(
        "data set", text, DATASETS, hint="Or give the path of an .npz file with an array x, or of a folder of images."
    )
