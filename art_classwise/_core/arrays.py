"""Arrays, however people hold them: NumPy's, torch's, pandas', lists; and images among them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from art_classwise.errors import InputError, first_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ROUNDING", "as_array", "as_images"]

ROUNDING = 1e-5
"""By how much pixels may miss [0, 1]: computed ones do by a rounding, and are brought back."""


def as_array(value: Any, name: str, *, texts: bool = False) -> npt.NDArray[Any]:
    """Return numbers as an array: of a tensor of any type, place or layout, a pandas object, a list of any of these.

    Args:
        value: The numbers.
        name: What to call them in messages.
        texts: Whether they may be texts, such as class names, too.

    Raises:
        InputError: It holds something else, or its rows differ in length.
    """
    if _is_tensor(value):
        return _of_tensor(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return value
    try:
        if callable(convert := getattr(value, "to_numpy", None)):  # of pandas and polars
            array = np.asarray(convert())
        elif isinstance(value, (list, tuple)) and any(
            isinstance(item, np.ndarray) or _is_tensor(item) for item in value
        ):
            rows = [as_array(item, f"{name}[{i}]", texts=texts) for i, item in enumerate(value)]
            if len({row.shape for row in rows}) > 1:
                first = next(i for i, row in enumerate(rows) if row.shape != rows[0].shape)
                raise InputError(
                    f"{name} must be of one shape, but {name}[0] has shape {rows[0].shape} and {name}[{first}] "
                    f"{rows[first].shape}: resize or crop them."
                )
            array = np.stack(rows)
        else:
            array = np.asarray(value)
        if array.dtype == object:  # of a column of mixed types, or of arrays
            array = np.asarray(array.tolist())
    except InputError:
        raise
    except Exception as error:  # of whatever the value is: of any kind
        raise InputError(
            f"{name} must be an array, a tensor or a list of numbers, but a {type(value).__name__} can't be made one: "
            f"{first_line(error)}"
        ) from error
    if array.dtype.kind not in ("biufcUS" if texts else "biufc"):
        raise InputError(f"{name} must be an array, a tensor or a list of numbers, but is a {type(value).__name__}.")
    return array


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # metrics don't need it; what made a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _of_tensor(value: Tensor) -> npt.NDArray[Any]:
    import torch

    value = value.detach()
    value = value.dequantize() if value.is_quantized else value
    value = value.to_dense() if value.layout != torch.strided else value
    if value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64):
        value = value.float()  # NumPy has no bfloat16 and no float8
    array: npt.NDArray[Any] = value.resolve_conj().resolve_neg().cpu().numpy()
    return array


def as_images(x: Any, name: str) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return images as float32 (n, C, H, W) in [0, 1], and what was guessed of them.

    Grey images (n, H, W), channels last, whole numbers and float64 are recognised. Unsigned numbers of 8 and 16 bits
    are divided by the largest of their type, unless all are 0 or 1; others by the first of 1, 255 and 65,535 that none
    of them is above.

    Args:
        x: The images, as for :func:`as_array`.
        name: What to call them in messages.

    Raises:
        InputError: They aren't images, not finite, or outside [0, 1].
    """
    images = as_array(x, name)
    done: list[str] = []
    if images.ndim == 2:
        side = round(images.shape[1] ** 0.5)
        shape = f"(n, 1, {side}, {side})" if side * side == images.shape[1] else "(n, C, H, W)"
        raise InputError(
            f"{name} must be images (n, C, H, W), but has rows of {images.shape[1]} values: reshape it to {shape}."
        )
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise InputError(
            f"{name} must be images (n, C, H, W), (n, H, W, C) or (n, H, W), but has shape {images.shape}."
        )
    if images.size == 0:
        raise InputError(f"{name} holds no image: its shape is {images.shape}.")
    if _channels_last(images.shape[1:]):
        images = images.transpose(0, 3, 1, 2)
        if images.shape[1] not in (1, 3):
            done.append(f"the last of the sides, {images.shape[1]}, was taken for the channels")
    if images.dtype.kind in "iu":
        divisor, usual = _divisor(images, name), np.iinfo(images.dtype).max
        if divisor == 1 and images.max() == 1:
            done.append("0 and 1 were taken for black and white")
        elif divisor not in (1, usual):
            done.append(f"whole numbers were divided by {divisor:,}")
        images = images.astype(np.float32) / np.float32(divisor)
    elif images.dtype.kind not in "bf":
        raise InputError(f"{name} must hold whole numbers, or floats in [0, 1], but holds {images.dtype}.")
    with np.errstate(over="ignore"):  # of float64: it is told below, as infinite
        images = np.ascontiguousarray(images, dtype=np.float32)
    return _in_range(images, name), done


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether the last of three sides is the channels: 1 or 3 of them, or where the two others are equal.

    But square images with channels first are what they are: one pixel of five channels isn't a column of five pixels.
    """
    first, middle, last = shape
    if middle == last:
        return False
    if (first in (1, 3)) != (last in (1, 3)):
        return last in (1, 3)
    return first == middle or last < min(first, middle)


def _divisor(images: npt.NDArray[Any], name: str) -> int:
    low, high = int(images.min()), int(images.max())
    usual = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535}.get(images.dtype)
    divisor = usual if usual and high > 1 else next((d for d in (1, 255, 65_535) if high <= d), None)
    if low < 0 or divisor is None:
        raise InputError(
            f"{name} holds whole numbers from {low} to {high}: those of images go from 0 to 1, 255 or 65,535. Scale "
            "them to floats in [0, 1]."
        )
    return divisor


def _in_range(images: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    low, high = float(images.min()), float(images.max())  # NaN passes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        first = int((~np.isfinite(images)).reshape(len(images), -1).any(1).argmax())
        raise InputError(f"Example {first} of {name} has a pixel that is not finite.")
    if low < -ROUNDING or high > 1 + ROUNDING:
        large = low >= 0 and 1 < high <= 255
        remedy = "Divide them by 255?" if large else "Undo the normalisation: models do their own (`mean`, `std`)."
        raise InputError(
            f"Pixels must lie in [0, 1], but those of {name} go from {low:g} to {high:g}. {remedy}",
            python="" if large else "Give these to as_classifier or load_checkpoint.",
        )
    return images.clip(0, 1) if low < 0 or high > 1 else images
