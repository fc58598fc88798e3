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

__all__ = ["image_files", "is_grey", "read_npz", "to_float"]


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
    return LazyImages(read, np.arange(len(paths)), (channels, height, width), source)


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


def read_npz(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Args:
        path: The file.
        needed: Names that must be among them.
        optional: Names that may be; others aren't read.

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
                if set(needed) - set(arrays.files):
                    raise InputError(
                        f"{path} must hold arrays named {' and '.join(needed)}, but it holds "
                        f"{', '.join(arrays.files) or 'nothing'}: write it with numpy.savez(path, {how})."
                    )
                return {name: arrays[name] for name in (*needed, *optional) if name in arrays.files}
    except InputError:
        raise
    except Exception as error:  # a damaged file breaks NumPy's reader in many ways
        if "allow_pickle" in str(error):
            raise InputError(f"{path} holds Python objects, which are not loaded: save plain arrays.") from error
        raise InputError(f"{path} is a damaged .npz file: {first_line(error)}") from error


def to_float(x: npt.NDArray[Any], source: str) -> npt.NDArray[np.float32]:
    """Bring images to float32 (n, C, H, W): grey (n, H, W), channels last and uint8 are recognised."""
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise InputError(f"{source}: images must be (n, C, H, W), (n, H, W, C) or (n, H, W), but got {x.shape}.")
    if x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x).astype(np.float32) / np.float32(255)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{source}: images must be uint8, or floats in [0, 1], but got {x.dtype}.")
    return np.ascontiguousarray(x, dtype=np.float32)
