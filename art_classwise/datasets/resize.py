"""Images in memory, brought to another size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from art_classwise._core.memory import check_memory
from art_classwise.errors import InputError, check_whole

__all__ = ["resized"]


def resized(x: npt.NDArray[np.float32], size: int, name: str) -> npt.NDArray[np.float32]:
    """Return images of another size, by Pillow's bilinear filter, which averages where it makes images smaller.

    Images of 256 levels, as files hold them, get such again, as by ``torchvision.transforms.Resize(size)`` on them.

    Args:
        x: Square images (n, C, H, H) in [0, 1].
        size: The new side, in pixels.
        name: What to call the data set in messages.

    Returns:
        float32 (n, C, size, size).

    Raises:
        InputError: The images aren't square, or don't fit into memory.
    """
    from PIL import Image

    check_whole("image_size", size, 1)
    n, channels, height, width = x.shape
    if height != width:
        raise InputError(
            f"The images of {name} have {height} x {width} pixels: only square ones are resized (`image_size`). Crop "
            "or pad them first, or give a folder of image files, of which the centre is cropped."
        )
    if height == size:
        return x
    check_memory(4 * n * channels * size**2, f"{name}, {n:,} images of {size} x {size},", "Take fewer (`n_examples`).")
    out = np.empty((n, channels, size, size), np.float32)
    for i, image in enumerate(x):
        levels = np.rint(image * 255)
        whole = bool((levels / np.float32(255) == image).all())
        for c, plane in enumerate(levels.astype(np.uint8) if whole else image):
            small = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
            out[i, c] = small / np.float32(255) if whole else small.clip(0, 1)
    return out
