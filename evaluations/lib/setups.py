"""Data sets, networks and trainings of the experiments at each size, and a store that shares the trainings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import art_classwise as acw
from art_classwise._core.files import written_aside
from art_classwise._core.state import preserved_random_state
from art_classwise.datasets import DATASETS
from art_classwise.trainers import METHODS
from art_classwise.trainers.recipes import Recipe, fast_recipe, plain_recipe


@dataclass(frozen=True)
class Setup:
    """How a network is trained and attacked.

    Attributes:
        dataset: Name of the data set.
        network: A key of :data:`NETWORKS`.
        threat: Norm and radius, of training and attack.
        epochs: Of a training.
        steps: Of the training attack.
        n_train: Training examples; all if None.
        n_test: Test examples; all if None.
        n_curve: Test examples attacked after each epoch; as many as are there if fewer. Nothing is chosen on them.
        recipe: ``"plain"`` or ``"fast"``: see :mod:`art_classwise.trainers.recipes`.
        image_size: Side of the images, to which they are resized; the data set's own if absent.
        lr: Learning rate; the recipe's if absent.
        natural_first: Epochs of natural training, at whose end the adversarial trainings of a seed begin; 0: they begin
            at fresh weights. From these CNN-A stayed at a constant prediction on CIFAR-10, by some seeds.
    """

    dataset: str
    network: str
    threat: str
    epochs: int
    steps: int
    n_train: int | None = None
    n_test: int | None = None
    n_curve: int = 1000
    recipe: str = "plain"
    image_size: int | None = None
    lr: float | None = None
    natural_first: int = 0

    @property
    def eps(self) -> float:
        """The radius."""
        return acw.ThreatModel.parse(self.threat).eps


SIZES: dict[str, dict[str, Setup]] = {
    "tiny": {
        "digits": Setup("digits", "digits-cnn", "Linf:0.1", 2, 1, 300, 60, 30),
        "mnist": Setup("mnist", "few-channels", "Linf:0.15", 1, 1, 200, 60, 30),
        "cifar10": Setup("cifar10", "cnn-a", "Linf:8/255", 1, 1, 200, 60, 30, natural_first=1),
        "cifar100": Setup("cifar100", "cnn-a", "Linf:8/255", 1, 1, 400, 200, 100),
        "svhn": Setup("svhn", "cnn-a", "Linf:8/255", 1, 1, 200, 60, 30),
        "stl10": Setup("stl10", "torchvision-resnet18", "Linf:8/255", 1, 1, 20, 20, 10),
        "imagenet": Setup("imagenet", "torchvision-resnet18", "Linf:4/255", 1, 1, 20, 20, 10, image_size=64),
    },
    "quick": {
        "digits": Setup("digits", "digits-cnn", "Linf:0.1", 20, 5),
        "mnist": Setup("mnist", "few-channels", "Linf:0.15", 8, 5, 4000, 2000),
        "cifar10": Setup("cifar10", "cnn-a", "Linf:4/255", 4, 5, 10_000, 2000, lr=0.01, natural_first=6),
        "cifar100": Setup("cifar100", "cnn-a", "Linf:4/255", 4, 5, 10_000, 4000, 500, lr=0.01, natural_first=8),
        "svhn": Setup("svhn", "cnn-a", "Linf:4/255", 4, 5, 10_000, 2000, lr=0.01, natural_first=6),
        "stl10": Setup(*("stl10", "cnn-a", "Linf:4/255", 6, 5, 5000, 2000), image_size=32, lr=0.01, natural_first=10),
    },
    "full": {
        "mnist": Setup("mnist", "mnist-cnn", "Linf:0.3", 30, 40, recipe="fast"),
        "cifar10": Setup("cifar10", "resnet18", "Linf:8/255", 30, 10, recipe="fast"),
        "cifar100": Setup("cifar100", "resnet18", "Linf:8/255", 30, 10, recipe="fast"),
        "svhn": Setup("svhn", "resnet18", "Linf:8/255", 30, 10, recipe="fast"),
        "stl10": Setup("stl10", "torchvision-resnet18", "Linf:8/255", 60, 10, recipe="fast"),
        "imagenet": Setup("imagenet", "torchvision-resnet50", "Linf:4/255", 30, 2, recipe="fast", image_size=224),
    },
}
"""By size and data set. ``tiny`` tries the scripts, ``quick`` is for two cores, ``full`` for a CUDA GPU."""

QUICK_ATTACKS = ("fgsm", "pgd-20", "margin-20", "tpgd5-20")
"""What networks are attacked by at quick size, from weak to strong."""


def few_channels() -> nn.Module:
    """Return a network for MNIST of two convolutions, of 16 and 32 channels, and two linear layers; 86,166 weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


class _Standardise(nn.Module):
    """Bring images in [0, 1] to about zero mean and unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


def cnn_a(n_classes: int = 10) -> nn.Module:
    """Return alpha-beta-CROWN's CNN-A for CIFAR: two convolutions, two linear layers; 214,918 weights."""
    return nn.Sequential(
        _Standardise(),
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, n_classes)),
    )


def _torchvision(name: str) -> Callable[[tuple[int, ...], int], nn.Module]:
    def make(_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        from torchvision import models

        network: nn.Module = getattr(models, name)(num_classes=n_classes)
        return network

    return make


NETWORKS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    **{name: lambda s, c, name=name: acw.build(name, s, c) for name in ("digits-cnn", "mnist-cnn", "resnet18")},
    "few-channels": lambda _shape, _n_classes: few_channels(),
    "cnn-a": lambda _shape, n_classes: cnn_a(n_classes),
    "torchvision-resnet18": _torchvision("resnet18"),
    "torchvision-resnet50": _torchvision("resnet50"),
}


def network(name: str, shape: Sequence[int] = (3, 32, 32), n_classes: int = 10, seed: int = 0) -> nn.Module:
    """Return a fresh network, with the same weights for the same seed."""
    with preserved_random_state(seed):
        return NETWORKS[name](tuple(shape), n_classes)


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
    packed = _packed(Path(root or "."), f"{dataset}_{split}", image_size)
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


class Trainings:
    """The trainings of one data set, each done once and kept in a folder that the experiments share.

    Args:
        setup: How to train and attack.
        root: Folder of the data sets.
        store: Folder of what is done already; a subfolder of it is taken.
        made_up: Take made-up images: see :func:`stand_in`.

    Raises:
        InputError: The data set isn't there, or the folder holds trainings of another setup.
    """

    def __init__(self, setup: Setup, root: str | None, store: Path, *, made_up: bool = False) -> None:
        self.setup, self.folder = setup, store / (f"{setup.dataset}-stand-in" if made_up else setup.dataset)
        if made_up:
            sizes = {"train": setup.n_train or 1000, "test": setup.n_test or 1000}
            parts = [stand_in(setup.dataset, split, n, setup.image_size) for split, n in sizes.items()]
        else:
            wanted = (("train", setup.n_train), ("test", setup.n_test))
            parts = [load(setup.dataset, split, root, n, image_size=setup.image_size) for split, n in wanted]
        self.train, self.test = parts
        check_size(self.folder, asdict(setup))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.test.classes

    @property
    def told(self) -> str:
        """Data set and network, as the tables say it."""
        return f"{self.test.name}, {self.setup.network}"

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains here."""
        threat = self.setup.threat
        if self.setup.recipe == "fast":
            small = {"mnist-cnn", "digits-cnn"} & {self.setup.network}
            options = {"architecture": self.setup.network} if small else {}
            recipe = fast_recipe(method, self.setup.dataset, threat=threat, epochs=self.setup.epochs, **options)
            return recipe.override(steps=self.setup.steps, lr=self.setup.lr)
        recipe = replace(plain_recipe(method, threat=threat), batch_size=64)
        epochs = self.setup.natural_first if method == "natural" else 0
        return recipe.override(epochs=epochs or self.setup.epochs, steps=self.setup.steps, lr=self.setup.lr)

    def network(self, seed: int) -> nn.Module:
        """Return a fresh network."""
        return network(self.setup.network, self.train.input_shape, len(self.classes), seed)

    def trained(
        self,
        method: str,
        seed: int,
        *,
        labels: np.ndarray | None = None,
        name: str = "",
        keep: str = "last",
        **options: Any,
    ) -> Any:
        """Return a trained network as an ART classifier; its training goes on where it was, if it was begun.

        Args:
            method: ``"natural"``, ``"standard"``, ``"trades"``, ``"mart"``, ...
            seed: Of weights and order.
            labels: Others than the training set's, int64 (n,).
            name: Of the training with such labels, or with such options.
            keep: Which epoch's weights are taken, chosen on the test examples attacked after each epoch: see ``fit``.
            **options: Of the trainer, beside the recipe's.
        """
        folder = self.folder / f"{method}{name}-{seed}"
        module = self.network(seed)
        classifier = acw.as_classifier(module, self.train.input_shape, len(self.classes))
        if (folder / "weights.pt").is_file():
            module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True, map_location="cpu"))
            module.eval()
            return classifier
        recipe = self.recipe(method)
        if self.setup.natural_first and method != "natural":
            module.load_state_dict(self.trained("natural", seed).model.state_dict())
        optimizer = recipe.optimizer(module)
        classifier = acw.as_classifier(module, self.train.input_shape, len(self.classes), optimizer=optimizer)
        options = {**recipe.trainer_options(module), **options, "seed": seed, "verbose": False}
        trainer = METHODS[method].trainer(classifier, **options)
        curve = self.test
        if self.setup.n_curve < len(curve):
            curve = curve.hold_out(self.setup.n_curve)[1]
        history = trainer.fit(
            self.train.x,
            self.train.y if labels is None else labels,
            validation_data=(curve.x, curve.y),
            **recipe.fit_options(optimizer, len(self.train)),
            keep=keep,
            checkpoint_dir=folder / "training",
            resume=True,
        )
        history.to_csv(folder / "history.csv", index=False)
        torch.save(module.state_dict(), folder / "weights.pt")
        module.eval()
        return classifier

    def history(self, method: str, seed: int) -> pd.DataFrame:
        """Return a training's history, a row per epoch."""
        self.trained(method, seed)
        return pd.read_csv(self.folder / f"{method}-{seed}" / "history.csv")

    def audit(
        self,
        methods: Sequence[str],
        seed: int,
        attacks: str | Sequence[str],
        *,
        n_examples: int | None = None,
    ) -> acw.AuditResult:
        """Return the outcomes of attacks on the networks of some methods from one seed; they are kept in the store.

        Args:
            methods: As of :meth:`trained`.
            seed: Of the trainings.
            attacks: Names, or a ladder's.
            n_examples: Of the test set, drawn in proportion to the classes; all if absent.
        """
        data, store = self.test, self.folder / f"audit-{seed}"
        if n_examples is not None and n_examples < len(data):
            data, store = data.hold_out(n_examples)[1], self.folder / f"audit-{seed}-{n_examples}"
        audit = acw.ClassWiseAudit(self.setup.threat, attacks, store=store, checks=False, verbose=False)
        return audit.evaluate({method: self.trained(method, seed) for method in methods}, data)


def check_size(store: Path, size: Mapping[str, Any]) -> None:
    """Stop if a store holds trainings of another size than this; note there what they are of."""
    held, told = store / "size.json", json.loads(json.dumps(dict(size)))
    store.mkdir(parents=True, exist_ok=True)
    if not held.exists():
        with written_aside(held) as aside:  # under torchrun another process may be reading it
            aside.write_text(json.dumps(told))
    elif json.loads(held.read_text()) != told:
        sys.exit(f"error: {store} holds trainings of another size: choose another --store, or remove it")
