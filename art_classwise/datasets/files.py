"""Images in files: of a folder, or in an .npz file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise.datasets.dataset import LazyImages
from art_classwise.errors import InputError, check_whole, first_line

__all__ = ["image_files", "is_grey", "read_npz"]


def image_files(paths: Sequence[str], *, grey: bool, image_size: int | None) -> LazyImages:
    """Return image files as images read as needed, of the first one's size.

    Args:
        paths: The files.
        grey: One channel instead of three.
        image_size: Resize each image's shorter side to 8/7 of this and crop its centre to this, if given.

    Raises:
        InputError: The first one can't be read.
    """
    from PIL import Image
    from torchvision import transforms

    steps: list[Any] = []
    if image_size is not None:
        check_whole("image_size", image_size, 1)
        # RobustBench's ImageNet preprocessing: resize 256, crop 224, and its ratio for other sizes.
        steps = [transforms.Resize(round(image_size * 256 / 224)), transforms.CenterCrop(image_size)]
    to_tensor = transforms.Compose([*steps, transforms.ToTensor()])

    def open_image(i: int) -> Any:
        path = paths[i]
        try:
            with Image.open(path) as opened:
                image: Image.Image = opened
                if image.mode == "F":
                    raise InputError(
                        f"{path} holds floats, whose range is unknown: save it as 8 or 16 bits, or as .npz."
                    )
                if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
                    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
                return image.convert("L" if grey else "RGB")
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path} can't be read as an image: {error}") from error

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

    channels, height, width = read(0).shape
    return LazyImages(read, np.arange(len(paths)), (channels, height, width), source, paths)


def _checksum(path: str) -> int:
    try:
        return zlib.crc32(Path(path).read_bytes())
    except OSError:  # reported once it is read
        return -1


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # reported once it is read
        return -1


def is_grey(path: str) -> bool:
    """Return whether an image file has grey levels only; no, if it can't be read, which is reported once it is."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except (OSError, SyntaxError):
        return False


_OTHER_NAMES = {
    "x": ("x", "images", "image", "imgs", "data", "inputs", "arr_0"),
    "y": ("y", "labels", "label", "targets", "target", "arr_1"),
}
"""What arrays of images and labels are called, the likeliest first."""


def read_npz(
    path: Path, needed: Sequence[str], optional: Sequence[str] = (), split: str = "test"
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Args:
        path: The file.
        needed: Names that must be among them, or others that mean the same: ``images`` for x, ``labels`` for y, with
            the split before or behind them, as in ``x_test`` or ``train_images``, and in any case.
        optional: Names that may be; others aren't read.
        split: Which arrays to take, where there are several.

    Raises:
        InputError: The file is missing or damaged, or lacks one of them.
    """
    how = ", ".join(f"{name}={'labels' if name == 'y' else 'images'}" for name in needed)
    if not path.is_file():
        raise InputError(f"There is no file {path.absolute()}.")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise InputError(f"{path} is not an .npz file: write it with numpy.savez(path, {how}).")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                named = {name: _key(name, arrays.files, split) for name in needed}
                if None in named.values():
                    raise InputError(
                        f"{path} must hold arrays named {' and '.join(needed)}, but it holds "
                        f"{', '.join(arrays.files) or 'nothing'}: write it with numpy.savez(path, {how})."
                    )
                found = {name: arrays[key] for name, key in named.items()}
                return found | {name: arrays[name] for name in optional if name in arrays.files}
    except InputError:
        raise
    except Exception as error:  # a damaged file breaks NumPy's reader in many ways
        if "allow_pickle" in str(error):
            raise InputError(f"{path} holds Python objects, which are not loaded: save plain arrays.") from error
        raise InputError(f"{path} is a damaged .npz file: {first_line(error)}") from error


def _key(name: str, keys: Sequence[str], split: str) -> str | None:
    """Return the key of the array that is meant by a name."""
    lowered = {key.lower(): key for key in reversed(keys)}
    splits = (split, "val", "valid") if split == "test" else (split,)
    for other in _OTHER_NAMES.get(name, (name,)):
        for key in (other, *(f"{other}_{s}" for s in splits), *(f"{s}_{other}" for s in splits)):
            if key in lowered:
                return lowered[key]
    return None
