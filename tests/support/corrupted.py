"""Small folders of corrupted images, laid out as the published ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

import art_classwise as acw


def examples(n=90, n_classes=3, side=4, seed=0):
    """Return images whose class a linear network can learn from, in 8 bits."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    levels = rng.integers(60, 120, (n, 3, side, side))
    levels[np.arange(n), y % 3] += 40 + 10 * (np.arange(n) % 3)[:, None, None]
    return acw.Dataset((levels / 255).astype(np.float32), y, tuple("abc"[:n_classes]), name="tiny")


class Brightest(nn.Module):
    """Takes an image for the channel that is brightest."""

    def forward(self, x):
        return 20 * x.mean((2, 3))


def classifier(data, module=None):
    return acw.as_classifier(module or Brightest(), data.input_shape, len(data.classes), device="cpu")


def corrupted(data, kind, severity):
    """Return what :func:`write_arrays` writes of a corruption: uint8 (n, H, W, C)."""
    rng = np.random.default_rng([sum(map(ord, kind)), severity])
    levels = (255 * np.asarray(data.x)).round().transpose(0, 2, 3, 1)
    per_image = rng.normal(0, 12 * severity, (len(data), 1, 1, levels.shape[-1]))
    return (levels + per_image).clip(0, 255).astype(np.uint8)


def write_arrays(folder: Path, data, kinds=("fog", "snow"), labels_of=5):
    """Write NAME.npy and labels.npy, as CIFAR-10-C has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        np.save(folder / f"{kind}.npy", np.concatenate([corrupted(data, kind, s) for s in range(1, 6)]))
    np.save(folder / "labels.npy", np.tile(data.y, labels_of))
    return folder


def write_files(folder: Path, data, names, kinds=("fog", "snow")):
    """Write NAME/SEVERITY/CLASS/FILE, as ImageNet-C has them; the names are CLASS/FILE."""
    for kind in kinds:
        for severity in range(1, 6):
            for name, pixels in zip(names, corrupted(data, kind, severity), strict=True):
                path = folder / kind / str(severity) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder
