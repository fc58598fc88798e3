"""Corruptions made from clean images, where no published ones are at hand.

They follow Hendrycks and Dietterich (2019, arXiv 1903.12261) in kind and, by and large, in the strengths that they
chose for CIFAR-10, lengths in proportion to the image's side; they aren't their images. Pillow, SciPy and NumPy do the
work.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["MAKEABLE", "corrupted"]

_Image: TypeAlias = npt.NDArray[np.float64]  # (C, H, W) in [0, 1]
_Maker: TypeAlias = Callable[[_Image, Any, np.random.Generator], _Image]

_SIDE = 32  # of the images that lengths below are for


def corrupted(image: npt.NDArray[np.float32], kind: str, severity: int, number: int) -> npt.NDArray[np.float32]:
    """Return an image corrupted, rounded to 8 bits as published ones are.

    Args:
        image: float32 (C, H, W) in [0, 1], C 1 or 3.
        kind: One of :data:`MAKEABLE`.
        severity: 1 to 5.
        number: The example's, of which alone the random numbers depend, with kind and severity.
    """
    make, strengths = _MAKERS[kind]
    rng = np.random.default_rng([zlib.crc32(kind.encode()), severity, number % 2**63])
    pixels = make(image.astype(np.float64), strengths[severity - 1], rng)
    return (255 * pixels.clip(0, 1)).round().astype(np.float32) / np.float32(255)


def _scale(image: _Image) -> float:
    return float(min(image.shape[1:])) / _SIDE


def _gaussian_noise(image: _Image, sd: float, rng: np.random.Generator) -> _Image:
    return image + rng.normal(0, sd, image.shape)


def _shot_noise(image: _Image, photons: float, rng: np.random.Generator) -> _Image:
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: _Image, share: float, rng: np.random.Generator) -> _Image:
    drawn = rng.random(image.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, image))


def _defocus_blur(image: _Image, radius: float, rng: np.random.Generator) -> _Image:
    radius = max(radius * _scale(image), 0.55 + 0.1 * radius)  # at less, a disk is a single pixel
    reach = int(np.ceil(radius + 0.5))
    at = np.arange(-reach, reach + 1)
    distance = np.hypot(at[:, None], at[None])
    disk = np.clip(radius + 0.5 - distance, 0, 1)  # of a pixel on the rim its part within
    blurred: _Image = ndimage.convolve(image, (disk / disk.sum())[None], mode="reflect")
    return blurred


def _motion_blur(image: _Image, length: float, rng: np.random.Generator) -> _Image:
    length, angle = length * _scale(image), rng.uniform(-np.pi / 4, np.pi / 4)
    along = np.linspace(-length / 2, length / 2, max(3, 2 * int(np.ceil(length)) + 1))
    moved = [
        ndimage.shift(image, (0, step * np.sin(angle), step * np.cos(angle)), order=1, mode="reflect") for step in along
    ]
    blurred: _Image = np.mean(moved, axis=0)
    return blurred


def _zoom_blur(image: _Image, most: float, rng: np.random.Generator) -> _Image:
    centre = (np.array(image.shape[1:]) - 1) / 2
    zoomed = []
    for factor in np.linspace(1, most, 6):
        shrink = np.array([1.0, 1 / factor, 1 / factor])
        offset = np.array([0.0, *(centre * (1 - 1 / factor))])
        zoomed.append(ndimage.affine_transform(image, shrink, offset, order=1, mode="nearest"))
    blurred: _Image = np.mean(zoomed, axis=0)
    return blurred


def _brightness(image: _Image, gain: float, rng: np.random.Generator) -> _Image:
    value = image.max(0, keepdims=True)  # of hue, saturation and value
    brighter = np.clip(value + gain, 0, 1)
    lit: _Image = np.where(value > 0, image * brighter / np.where(value > 0, value, 1), brighter)
    return lit


def _contrast(image: _Image, factor: float, rng: np.random.Generator) -> _Image:
    mean = image.mean((1, 2), keepdims=True)
    flatter: _Image = mean + factor * (image - mean)
    return flatter


def _elastic_transform(image: _Image, strength: float, rng: np.random.Generator) -> _Image:
    height, width = image.shape[1:]
    scale = _scale(image)
    field = ndimage.gaussian_filter(rng.uniform(-1, 1, (2, height, width)), (0, 3 * scale, 3 * scale), mode="reflect")
    field *= strength * scale / max(float(np.abs(field).max()), 1e-12)  # the farthest pixel moves so many pixels
    rows, columns = np.mgrid[:height, :width] + field
    return np.stack([ndimage.map_coordinates(c, [rows, columns], order=1, mode="reflect") for c in image])


def _pixelate(image: _Image, factor: float, rng: np.random.Generator) -> _Image:
    from PIL import Image

    picture = _picture(image)
    small = picture.resize([max(1, int(side * factor)) for side in picture.size], Image.Resampling.BOX)
    return _pixels(small.resize(picture.size, Image.Resampling.BOX))


def _jpeg_compression(image: _Image, quality: int, rng: np.random.Generator) -> _Image:
    from PIL import Image

    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return _pixels(opened)


def _picture(image: _Image) -> Any:
    from PIL import Image

    levels = (255 * image).round().astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))


def _pixels(picture: Any) -> _Image:
    levels = np.asarray(picture, dtype=np.float64) / 255
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


_MAKERS: Mapping[str, tuple[_Maker, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, (0.75, 1.0, 1.25, 1.5, 2.0)),
    "motion_blur": (_motion_blur, (2, 3, 4, 5, 6)),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (_elastic_transform, (1.0, 1.5, 2.0, 2.5, 3.0)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}

MAKEABLE = tuple(_MAKERS)
"""Corruptions that images can be made with: eleven of the fifteen, without glass blur, snow, frost and fog."""
