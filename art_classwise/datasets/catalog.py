"""The data sets, a record each, which everything that knows data sets by name reads: without torch or NumPy."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_classwise.datasets import Dataset

__all__ = ["CORRUPTIONS", "DATASETS", "SEVERITIES", "DatasetSpec"]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known of a data set before it is loaded.

    Attributes:
        name: As :func:`art_classwise.load_dataset` and the command line have it.
        shape: (C, H, W) of an image; of ImageNet, whose images are read at any size, that of its networks.
        n_classes: Number of classes.
        loader: The function that loads it, ``"module:function"``, from (record, root, split, download, image_size).
        threat: The usual threat model, in the units of images in [0, 1], of training and attack.
        eps_step: Length of the usual attack's steps.
        steps: Their number.
        radii: Usual radii in other norms.
        crop_padding: Pixels of padding before random crops in training, a ninth to an eighth of the side; 0 is no crop.
        flip: Whether training flips images; digits and house numbers would be others when mirrored.
        network: The small network that is made for it, without batch norm, if there is one.
        class_names: Names of the classes, if the files don't say them.
        groups: The built-in groups of its classes, for questions that single classes have too few examples for.
        robustbench: RobustBench's name, if it has models for it.
        torchvision: The class that reads it, in ``torchvision.datasets``.
        url: Where it is downloaded from.
        splits: The class's arguments by split.
        folder: Where its files lie within the data folder.
        files: By split, what lies there.
    """

    name: str
    shape: tuple[int, int, int]
    n_classes: int
    loader: str
    threat: str
    eps_step: float
    steps: int = 20
    radii: Mapping[str, float] = field(default_factory=dict)
    crop_padding: int = 0
    flip: bool = False
    network: str | None = None
    class_names: tuple[str, ...] = ()
    groups: str | None = None
    robustbench: str | None = None
    torchvision: str = ""
    url: str = ""
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def load(self, root: Path, split: str, download: bool, image_size: int) -> Dataset:
        """Return a split of the data set, from the data folder ``root``: see :func:`art_classwise.load_dataset`."""
        module, _, function = self.loader.partition(":")
        data: Dataset = getattr(importlib.import_module(module), function)(self, root, split, download, image_size)
        return data

    def crop_padding_at(self, image_size: int | None) -> int:
        """Return :attr:`crop_padding` of images that are resized: the same share of the side."""
        return self.crop_padding if image_size is None else round(self.crop_padding * image_size / self.shape[1])


_DIGITS = tuple(str(d) for d in range(10))
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
_TORCHVISION = "art_classwise.datasets.load:read_torchvision"
_BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT = {split: {"split": split} for split in ("train", "test")}
_COLOURS: dict[str, Any] = {  # 8 of 255 grey levels
    "threat": "Linf:8/255",
    "eps_step": 2 / 255,
    "radii": {"L2": 0.5, "L1": 12.0},
}

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="digits",
            shape=(1, 8, 8),
            n_classes=10,
            loader="art_classwise.datasets.load:read_digits",
            threat="Linf:0.1",  # the quickstart's; no paper's
            eps_step=0.025,
            network="digits-cnn",
            class_names=_DIGITS,
        ),
        DatasetSpec(
            name="mnist",
            shape=(1, 28, 28),
            n_classes=10,
            loader=_TORCHVISION,
            threat="Linf:0.3",
            eps_step=0.01,
            steps=40,
            radii={"L2": 2.0, "L1": 10.0},
            network="mnist-cnn",
            class_names=_DIGITS,
            torchvision="MNIST",
            url="https://ossci-datasets.s3.amazonaws.com/mnist/",
            splits=_BY_TRAIN,
            folder="MNIST/raw",
            files={
                split: (f"{of}-images-idx3-ubyte", f"{of}-labels-idx1-ubyte")
                for split, of in (("train", "train"), ("test", "t10k"))
            },
        ),
        DatasetSpec(
            name="cifar10",
            shape=(3, 32, 32),
            n_classes=10,
            loader=_TORCHVISION,
            **_COLOURS,
            crop_padding=4,
            flip=True,
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            robustbench="cifar10",
            torchvision="CIFAR10",
            url="https://www.cs.toronto.edu/~kriz/cifar.html",
            splits=_BY_TRAIN,
            folder="cifar-10-batches-py",
            files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        ),
        DatasetSpec(
            name="cifar100",
            shape=(3, 32, 32),
            n_classes=100,
            loader=_TORCHVISION,
            **_COLOURS,
            crop_padding=4,
            flip=True,
            class_names=tuple(_CIFAR100.split()),
            groups="cifar100",
            robustbench="cifar100",
            torchvision="CIFAR100",
            url="https://www.cs.toronto.edu/~kriz/cifar.html",
            splits=_BY_TRAIN,
            folder="cifar-100-python",
            files={"train": ("train",), "test": ("test",)},
        ),
        DatasetSpec(
            name="svhn",
            shape=(3, 32, 32),
            n_classes=10,
            loader=_TORCHVISION,
            **_COLOURS,
            crop_padding=4,
            class_names=_DIGITS,
            torchvision="SVHN",
            url="http://ufldl.stanford.edu/housenumbers/",
            splits=_BY_SPLIT,
            files={split: (f"{split}_32x32.mat",) for split in ("train", "test")},
        ),
        DatasetSpec(
            name="stl10",
            shape=(3, 96, 96),
            n_classes=10,
            loader=_TORCHVISION,
            **_COLOURS,
            crop_padding=12,
            flip=True,
            class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
            torchvision="STL10",
            url="https://cs.stanford.edu/~acoates/stl10/",
            splits={**_BY_SPLIT, "unlabeled": {"split": "unlabeled"}},
            folder="stl10_binary",
            files={split: (f"{split}_X.bin", f"{split}_y.bin") for split in ("train", "test")},
        ),
        DatasetSpec(
            name="imagenet",
            shape=(3, 224, 224),
            n_classes=1000,
            loader="art_classwise.datasets.image_folder:read_imagenet",
            threat="Linf:4/255",
            eps_step=1 / 255,
            radii={"L2": 3.0},
            groups="imagenet",
            robustbench="imagenet",
            splits={"train": {}, "test": {}},
            folder="imagenet",
            files={"train": ("train",), "test": ("val",)},
        ),
    )
}
"""The data sets by name."""

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The corruptions of Hendrycks and Dietterich (2019, arXiv 1903.12261): noise, blur, weather, digital."""

SEVERITIES = (1, 2, 3, 4, 5)
"""How strong: 5 is the strongest."""
