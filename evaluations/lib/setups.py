"""Networks and trainings of the experiments at each size, and a store that shares the trainings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import art_classwise as acw
from art_classwise._core.files import written_aside
from art_classwise._core.state import preserved_random_state
from art_classwise.datasets import DATASETS
from art_classwise.metrics import group_labels
from art_classwise.trainers import METHODS
from art_classwise.trainers.recipes import Recipe, fast_recipe, plain_recipe
from lib.data import load, stand_in


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes:
        name: Of its folder.
        epochs: Number of epochs.
        steps: Of the training attack.
        eps_step: Length of its steps, in units of the radius.
        lr: Highest learning rate of the one-cycle schedule.
        rising: The part of the schedule in which the learning rate rises.
    """

    name: str
    epochs: int
    steps: int
    eps_step: float
    lr: float
    rising: float


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
        recipe: ``"plain"`` or ``"fast"``: see :mod:`art_classwise.trainers.recipes`; with ``phases``, theirs.
        image_size: Side of the images, to which they are resized; the data set's own if absent.
        lr: Learning rate; the recipe's if absent.
        natural_first: Epochs of natural training, at whose end the adversarial trainings of a seed begin; 0: they begin
            at fresh weights. From these CNN-A stayed at a constant prediction on CIFAR-10, by some seeds.
        phases: Parts of a training, each of which begins at the weights that the one before ends with. Natural training
            has the first only.
        begun_by: With phases, the method by which all adversarial trainings of a seed do the first one together, so
            that they differ in the rest alone; each by its own if absent. On other labels than the data set's, that
            phase is done apart.
        weight_decay: With phases.
        ema_decay: With phases, of the averaged weights, per step.
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
    phases: tuple[Phase, ...] = ()
    begun_by: str | None = None
    weight_decay: float = 5e-4
    ema_decay: float | None = None

    @property
    def eps(self) -> float:
        """The radius."""
        return acw.ThreatModel.parse(self.threat).eps


_PHASES = (
    Phase("single-step", 26, steps=1, eps_step=1.25, lr=0.2, rising=0.3),
    Phase("finish", 8, steps=5, eps_step=0.25, lr=0.02, rising=0.01),
)
"""A training of medium size: FGSM with a random start (Wong, Rice, Kolter 2020), and PGD from the averaged weights."""
_MEDIUM: dict[str, Any] = {"epochs": sum(p.epochs for p in _PHASES), "steps": _PHASES[-1].steps, "phases": _PHASES}

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
        "cifar100": Setup("cifar100", "cnn-a", "Linf:4/255", 3, 5, 10_000, 2000, 500, lr=0.01, natural_first=6),
        "svhn": Setup("svhn", "cnn-a", "Linf:4/255", 4, 5, 10_000, 2000, lr=0.01, natural_first=6),
        "stl10": Setup(*("stl10", "cnn-a", "Linf:4/255", 6, 5, 5000, 2000), image_size=32, lr=0.01, natural_first=10),
    },
    "medium": {
        "cifar10": Setup("cifar10", "resnet8-stem2", "Linf:8/255", **_MEDIUM, weight_decay=2e-4, ema_decay=0.999),
        "cifar100": Setup("cifar100", "resnet8-stem2", "Linf:8/255", **_MEDIUM, weight_decay=5e-4, ema_decay=0.995),
        "stl10": Setup(
            *("stl10", "resnet8-stem2", "Linf:8/255"), **_MEDIUM, image_size=64, weight_decay=5e-4, ema_decay=0.995
        ),
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
"""By size and data set. ``tiny`` tries the scripts, ``quick`` takes minutes and ``medium`` hours on two cores, ``full``
is for a CUDA GPU."""

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
    **{
        name: lambda s, c, name=name: acw.build(name, s, c)
        for name in ("digits-cnn", "mnist-cnn", "resnet8-stem2", "resnet18")
    },
    "few-channels": lambda _shape, _n_classes: few_channels(),
    "cnn-a": lambda _shape, n_classes: cnn_a(n_classes),
    "torchvision-resnet18": _torchvision("resnet18"),
    "torchvision-resnet50": _torchvision("resnet50"),
}


def network(name: str, shape: Sequence[int] = (3, 32, 32), n_classes: int = 10, seed: int = 0) -> nn.Module:
    """Return a fresh network, with the same weights for the same seed."""
    with preserved_random_state(seed):
        return NETWORKS[name](tuple(shape), n_classes)


class Trainings:
    """The trainings of one data set, each done once and kept in a folder that the experiments share.

    Args:
        setup: How to train and attack.
        root: Folder of the data sets.
        store: Folder of what is done already; a subfolder of it is taken.
        made_up: Take made-up images: see :func:`stand_in`.

    Attributes:
        root: Folder of the data sets.
        train: The training examples.
        test: The test examples.
        groups: Name of the groups of the classes, where there are such.

    Raises:
        InputError: The data set isn't there, or the folder holds trainings of another setup.
    """

    def __init__(self, setup: Setup, root: str | None, store: Path, *, made_up: bool = False) -> None:
        self.root = root
        self.setup, self.folder = setup, store / (f"{setup.dataset}-stand-in" if made_up else setup.dataset)
        if made_up:
            sizes = {"train": setup.n_train or 1000, "test": setup.n_test or 1000}
            parts = [stand_in(setup.dataset, split, n, setup.image_size) for split, n in sizes.items()]
        else:
            wanted = (("train", setup.n_train), ("test", setup.n_test))
            parts = [load(setup.dataset, split, root, n, image_size=setup.image_size) for split, n in wanted]
        self.train, self.test = parts
        self.groups = None if made_up else DATASETS[setup.dataset].groups
        usual = {f.name: f.default for f in fields(setup) if f.default is not MISSING}
        check_size(self.folder, asdict(setup), usual)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.test.classes

    @property
    def told(self) -> str:
        """Data set and network, as the tables say it."""
        return f"{self.test.name}, {self.setup.network}"

    @property
    def views(self) -> dict[str, np.ndarray]:
        """What an example's class counts as, by class (C,): itself; and its superclass, where the data set has them."""
        views = {self.told: np.arange(len(self.classes))}
        if self.groups is not None:
            of, names = group_labels(views[self.told], self.groups, self.classes)
            views[f"{self.test.name}, {len(names)} superclasses, {self.setup.network}"] = of
        return views

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains here, or trains last."""
        threat, phases = self.setup.threat, self.parts(method)
        if phases[-1] is not None:
            return self._recipe_of(phases[-1], method)
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
        options |= {"seed": seed, "verbose": False}
        phases = self.parts(method)
        if self.setup.natural_first and method != "natural":
            module.load_state_dict(self.trained("natural", seed).model.state_dict())
        elif self.setup.begun_by is not None and method != "natural":
            first, phases = phases[0], phases[1:]
            place = self.folder / f"begun-{seed}" if labels is None else folder  # other labels have no part in it
            plain = {"seed": seed, "verbose": False}
            self._part(first, module, self.setup.begun_by, labels, place, "last", plain)
        parts = [self._part(part, module, method, labels, folder, keep, options) for part in phases]
        ends = np.cumsum([0, *map(len, parts)])
        history = pd.concat([part.assign(epoch=part["epoch"] + end) for part, end in zip(parts, ends, strict=False)])
        history.to_csv(folder / "history.csv", index=False)
        torch.save(module.state_dict(), folder / "weights.pt")
        module.eval()
        return classifier

    def parts(self, method: str) -> tuple[Phase | None, ...]:
        """Return the phases of a training by this method; None stands for a training in one."""
        return (self.setup.phases[:1] if method == "natural" else self.setup.phases) or (None,)

    def _part(
        self,
        phase: Phase | None,
        module: nn.Module,
        method: str,
        labels: np.ndarray | None,
        folder: Path,
        keep: str,
        options: dict[str, Any],
    ) -> pd.DataFrame:
        """Train a network in one phase, or in the only one, and return its history."""
        recipe = self.recipe(method) if phase is None else self._recipe_of(phase, method)
        optimizer = recipe.optimizer(module)
        fit = recipe.fit_options(optimizer, len(self.train))
        if phase is not None:
            options = {"ema_decay": self.setup.ema_decay, **options}
            total = fit["scheduler"].total_steps
            fit["scheduler"] = OneCycleLR(optimizer, phase.lr, total, cycle_momentum=False, pct_start=phase.rising)
        classifier = acw.as_classifier(module, self.train.input_shape, len(self.classes), optimizer=optimizer)
        trainer = METHODS[method].trainer(classifier, **{**recipe.trainer_options(module), **options})
        curve = self.test
        if self.setup.n_curve < len(curve):
            curve = curve.hold_out(self.setup.n_curve)[1]
        history: pd.DataFrame = trainer.fit(
            self.train.x,
            self.train.y if labels is None else labels,
            validation_data=(curve.x, curve.y),
            **fit,
            keep=keep,
            checkpoint_dir=folder / ("training" if phase is None else phase.name),
            resume=True,
        )
        return history

    def _recipe_of(self, phase: Phase, method: str) -> Recipe:
        """Return how a method trains in a phase: with random crops and flips where they are usual for the data set."""
        spec, setup = DATASETS[self.setup.dataset], self.setup
        crop = round(spec.crop_padding * self.train.input_shape[-1] / spec.shape[-1])
        return replace(
            plain_recipe(method, threat=setup.threat),
            epochs=phase.epochs,
            batch_size=128,
            steps=phase.steps,
            eps_step=phase.eps_step * setup.eps,
            lr=phase.lr,
            weight_decay=setup.weight_decay,
            nesterov=True,
            schedule="one-cycle",
            crop_padding=crop,
            flip=spec.flip,
            precision="bf16",
        )

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


def check_size(store: Path, size: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> None:
    """Stop if a store holds trainings of another size than this; note there what they are of.

    Args:
        store: The folder.
        size: What the trainings depend on.
        usual: Values of what an older version didn't note, if not stated.
    """
    held = store / "size.json"
    told, before = (json.loads(json.dumps(dict(of))) for of in (size, usual or {}))
    store.mkdir(parents=True, exist_ok=True)
    if not held.exists():
        with written_aside(held) as aside:  # under torchrun another process may be reading it
            aside.write_text(json.dumps(told))
    elif before | json.loads(held.read_text()) != told:
        sys.exit(f"error: {store} holds trainings of another size: choose another --store, or remove it")
