"""The data sets of the experiments, in the files that they may come in, and made-up ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import art_classwise as acw
from art_classwise.datasets import DATASETS


def load(
    dataset: str,
    split: str,
    root: str | os.PathLike[str] | None,
    n_examples: int | None = None,
    *,
    image_size: int | None = None,
) -> acw.Dataset:
    """Return a data set, or so many examples of it, drawn in proportion to the classes.

    Args:
        dataset: Its name.
        split: ``"train"`` or ``"test"``.
        root: Folder of the data sets; of CIFAR-10, say, the files cifar10_train.npz and cifar10_test.npz do. Files of
            images that were shrunk have their side in the name: stl10_train64.npz.
        n_examples: How many; all if absent.
        image_size: Side of the images, to which they are resized if theirs is another.

    Raises:
        InputError: It isn't there. Nothing is downloaded.
    """
    name = "imagenet_val" if (dataset, split) == ("imagenet", "test") else f"{dataset}_{split}"
    packed = _packed(Path(root or "."), name, image_size)
    if packed is not None:
        names = _imagenet_names() if dataset == "imagenet" else dataset
        data = replace(acw.load_dataset(packed, split, classes=names), name=dataset)
    else:
        size = image_size if dataset == "imagenet" else None
        data = acw.load_dataset(dataset, split, root=root, download=False, image_size=size)
    data = data if n_examples is None or n_examples >= len(data) else data.hold_out(n_examples)[1]
    return data if image_size is None else resized(data, image_size)


def _packed(folder: Path, name: str, image_size: int | None) -> Path | None:
    """Return the file to read images from: of those whose side is in the name the smallest that isn't too small."""
    shrunk = {
        int(p.stem.removeprefix(name)): p for p in folder.glob(f"{name}[0-9]*.npz") if p.stem[len(name) :].isdigit()
    }
    enough = [side for side in shrunk if image_size is not None and side >= image_size]
    found = shrunk[min(enough)] if enough else folder / f"{name}.npz"
    return found if found.is_file() else None


def resized(data: acw.Dataset, side: int) -> acw.Dataset:
    """Return square images at another size: bilinear, antialiased as pictures are shrunk."""
    if data.input_shape[1:] == (side, side):
        return data
    options: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
    parts = [
        functional.interpolate(torch.from_numpy(np.asarray(data.x[rows])), (side, side), **options).clamp(0, 1)
        for rows in np.array_split(np.arange(len(data)), -(-len(data) // 500))
    ]
    return replace(data, x=torch.cat(parts).numpy())


def _imagenet_names() -> tuple[str, ...]:
    """Return the words for ImageNet's classes by their numbers, which follow those that stand twice."""
    from torchvision.models import ResNet18_Weights

    words: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return tuple(f"{word} ({k})" if words.count(word) > 1 else word for k, word in enumerate(words))


def stand_in(dataset: str, split: str, n_examples: int, image_size: int | None = None) -> acw.Dataset:
    """Return made-up images of a data set's shape and number of classes, each class a pattern of its own under noise.

    They are for trying a script's command where the data set is absent, and are named so.
    """
    if dataset == "digits":
        return load(dataset, split, None, n_examples)
    shape, n_classes = DATASETS[dataset].shape, DATASETS[dataset].n_classes
    if image_size is not None:
        shape = (shape[0], image_size, image_size)
    patterns = np.random.default_rng(0).random((n_classes, *shape), dtype=np.float32)
    rng = np.random.default_rng(1 if split == "train" else 2)
    present = max(2, min(n_classes, n_examples // 4))  # of many classes only some, so that each has a few examples
    y = rng.permutation(np.arange(n_examples) % present)
    x = 0.5 + 0.2 * (patterns[y] - 0.5) + 0.1 * (rng.random((n_examples, *shape), dtype=np.float32) - 0.5)
    classes = tuple(f"class {k}" for k in range(n_classes))
    return acw.Dataset(x.astype(np.float32), y, classes, f"synthetic stand-in for {dataset}", split)
