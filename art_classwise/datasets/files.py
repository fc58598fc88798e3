"""Image files, read as needed."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.files import open_regular, read_regular
from art_classwise._core.memory import check_memory
from art_classwise.datasets.dataset import LazyImages
from art_classwise.errors import InputError, check_whole, first_line

__all__ = ["image_files", "is_grey"]


def image_files(paths: Sequence[str], *, grey: bool, image_size: int | None) -> LazyImages:
    """Return image files as images read as needed, of the first one's size.

    Args:
        paths: The files.
        grey: One channel instead of three.
        image_size: Resize each image's shorter side to 8/7 of this and crop its centre to this, if given.

    Raises:
        InputError: The first one can't be read, or images of this size don't fit into memory.
    """
    from PIL import Image
    from torchvision import transforms

    steps: list[Any] = []
    if image_size is not None:
        check_whole("image_size", image_size, 1)
        check_memory(12 * image_size**2, f"An image of {image_size:,} x {image_size:,}", "Take a smaller `image_size`.")
        # RobustBench's ImageNet preprocessing: resize 256, crop 224, and its ratio for other sizes.
        steps = [transforms.Resize(round(image_size * 256 / 224)), transforms.CenterCrop(image_size)]
    to_tensor = transforms.Compose([*steps, transforms.ToTensor()])

    def open_image(i: int) -> Any:
        path = paths[i]
        with _opened(path) as opened:
            image: Image.Image = opened
            if only is not None and image.size != only:  # before its pixels are read: they may be millions
                raise InputError(_other_size(path, image.size, paths[0], only))
            if image.mode == "F":
                raise InputError(f"{path} holds floats, whose range is unknown: save it as 8 or 16 bits, or as .npz.")
            if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            return image.convert("L" if grey else "RGB")

    def read(i: int) -> npt.NDArray[np.float32]:
        pixels: npt.NDArray[np.float32] = to_tensor(open_image(i)).numpy()
        return pixels

    def source() -> str:
        # A set that moved to another place or machine is the same: so no whole paths, and no dates.
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
        files = "".join(f"{os.path.relpath(path, common)}\0{_size(path)}\n" for path in paths)
        # Uncompressed images all have one size: some are read.
        some = np.unique(np.linspace(0, len(paths) - 1, 64).astype(np.int64))
        sums = "".join(f"{_checksum(paths[i])}\n" for i in some)
        return f"{'grey' if grey else 'RGB'} {image_size}\n{files}{sums}"

    only = None
    if image_size is None:
        only = _image_size(paths[0])
        for i in np.unique(np.linspace(0, len(paths) - 1, 64).astype(np.int64)):
            if (size := _image_size(paths[i])) != only:
                raise InputError(_other_size(paths[i], size, paths[0], only))
    channels, height, width = read(0).shape
    return LazyImages(read, np.arange(len(paths)), (channels, height, width), source, paths)


def _other_size(path: str, size: tuple[int, int], first: str, only: tuple[int, int]) -> str:
    (width, height), (usual_width, usual_height) = size, only
    return (
        f"{path} has {width:,} x {height:,} pixels, but {first} {usual_width:,} x {usual_height:,}: images must be of "
        "one size; `image_size=N` resizes and crops them to N pixels."
    )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open an image, of which only the header is read, unless it has more pixels than PIL warns of.

    Raises:
        InputError: It can't be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:  # which names the opened file by its number
        raise InputError(f"{path} can't be read as an image: it begins like none that Pillow knows.") from error
    except Exception as error:  # damaged files break PIL's readers in many ways
        raise InputError(
            f"{path} can't be read as an image: {getattr(error, 'strerror', None) or first_line(error)}"
        ) from error


def _image_size(path: str) -> tuple[int, int]:
    with _opened(path) as image:
        size: tuple[int, int] = image.size
        return size


def _checksum(path: str) -> int:
    try:
        return zlib.crc32(read_regular(path))
    except OSError:  # reported once it is read
        return -1


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # reported once it is read
        return -1


def is_grey(path: str) -> bool:
    """Return whether an image file has grey levels only; no, if it can't be read, which is reported once it is."""
    try:
        with _opened(path) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except InputError:
        return False
