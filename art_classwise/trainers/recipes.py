"""Recipes, how a network is trained, as one object: plain and fast ones, and those of the papers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from art_classwise.attacks import usual_threat
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, check_number, check_positive, check_whole
from art_classwise.threat import ThreatModel
from art_classwise.trainers.catalog import METHODS, method_spec

__all__ = ["Recipe", "fast_recipe", "paper_recipe", "plain_recipe"]

Schedule = Literal["decay", "cosine", "one-cycle"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: optimizer, schedule, training attack, augmentation.

    Attributes:
        name: ``"paper"``, ``"fast"`` or ``"plain"``.
        method: Which trainer it is for: a name of ``art_classwise.trainers.METHODS``.
        source: Where the numbers come from.
        threat: Norm and radius of the training attack.
        eps_step: Length of its steps. If absent a quarter of the radius; in L2 for TRADES' own recipes twice the radius
            divided by the number of steps, as in its authors' code.
        steps: Number of its steps.
        beta: Weight of the objective's second term, a divergence; None where there is none.
        epochs: Number of epochs.
        batch_size: Examples per step of the optimizer.
        lr: SGD's learning rate, the highest one of the schedule.
        momentum: SGD's.
        weight_decay: SGD's.
        nesterov: Whether momentum is Nesterov's.
        schedule: ``"decay"``: as ``decay`` says; ``"cosine"``: to 0, epoch by epoch; ``"one-cycle"``: step by step
            from lr / 25 up to lr for the first three tenths, then down to almost 0 (Smith and Topin 2017, arXiv
            1708.07120).
        decay: Pairs (first, factor): from epoch ``first`` on, counted from 1, the learning rate is ``factor * lr``.
        decay_unit: Whether ``first`` counts epochs or steps of the optimizer.
        crop_padding: Pixels of zero padding before a random crop; 0 for none.
        flip: Whether images are flipped at random.
        two_passes: As the trainers' option.
        passes: As the trainers' option.
        exact: Whether MART or BAT follows its published implementation to the letter.
        precision: As the trainers' option. The published trainings computed in float32, which ``"fp32"`` does.
        compile: Whether to compile the network; None: where it is on a CUDA device.
        unlabeled_fraction: Share of each batch that is unlabelled, where it is a recipe for semi-supervised training.

    Raises:
        InputError: The method is unknown, or a number is out of range.
    """

    name: str
    method: str
    source: str
    threat: ThreatModel
    eps_step: float | None = None
    steps: int = 10
    beta: float | None = None
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Schedule = "cosine"
    decay: tuple[tuple[int, float], ...] = ()
    decay_unit: Literal["epoch", "step"] = "epoch"
    crop_padding: int = 0
    flip: bool = False
    two_passes: bool = False
    passes: str | None = None
    exact: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | None = False
    unlabeled_fraction: float | None = None

    def __post_init__(self) -> None:
        method_spec(self.method)
        check_positive("lr", self.lr)
        for name in ("epochs", "batch_size", "steps"):
            check_whole(name, getattr(self, name), 1)
        if self.unlabeled_fraction is not None:
            check_number("unlabeled_fraction", self.unlabeled_fraction, 0, 1)

    def override(self, **given: Any) -> Recipe:
        """Return the recipe with other values for these attributes; None leaves an attribute as it is.

        With a new ``threat`` and no new ``eps_step``, steps are as if the recipe had none: see there.

        Raises:
            InputError: A number is out of range, or ``beta`` is given for a method that has none.
        """
        changes = {name: value for name, value in given.items() if value is not None}
        if "beta" in changes and self.beta is None:
            have = ", ".join(name for name, spec in METHODS.items() if spec.beta is not None)
            raise InputError(f"`beta` is a parameter of {have}; {self.method} has none.")
        if "threat" in changes:
            changes["threat"] = ThreatModel.parse(changes["threat"])
        if "threat" in changes and changes["threat"] != self.threat:
            changes.setdefault("eps_step", None)
        return replace(self, **changes)

    def optimizer(self, module: nn.Module) -> torch.optim.SGD:
        """Return the optimizer of a module's parameters."""
        return torch.optim.SGD(
            module.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )

    def scheduler(
        self, optimizer: torch.optim.Optimizer, n_examples: int, *, batch_size: int | None = None
    ) -> tuple[LRScheduler, Literal["epoch", "step"]]:
        """Return the schedule, and whether it steps after each epoch or after each step of the optimizer.

        Args:
            optimizer: As :meth:`optimizer` made it.
            n_examples: Number of labelled training examples.
            batch_size: How many of them are in a step; the recipe's batch size if absent.

        Returns:
            ``fit``'s ``scheduler`` and ``scheduler_interval``.
        """
        if self.schedule == "decay":
            return LambdaLR(optimizer, _Decay(self.decay)), self.decay_unit
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, self.epochs), "epoch"
        steps = self.epochs * math.ceil(n_examples / (batch_size or self.batch_size))
        return OneCycleLR(optimizer, self.lr, total_steps=steps, cycle_momentum=False), "step"

    def fit_options(
        self, optimizer: torch.optim.Optimizer, n_examples: int, *, batch_size: int | None = None
    ) -> dict[str, Any]:
        """Return a trainer's options for ``fit``: batch size, epochs, schedule. Arguments as :meth:`scheduler`."""
        scheduler, interval = self.scheduler(optimizer, n_examples, batch_size=batch_size)
        return {
            "batch_size": self.batch_size,
            "nb_epochs": self.epochs,
            "scheduler": scheduler,
            "scheduler_interval": interval,
        }

    def trainer_options(self, module: nn.Module | None = None) -> dict[str, Any]:
        """Return the options for the trainer of this method.

        Args:
            module: The network, on the device it is trained on: it decides where ``compile`` is None. If absent,
                whether there is a CUDA device decides.
        """
        options: dict[str, Any] = {
            "norm": self.threat.art_norm,
            "eps": self.threat.eps,
            "eps_step": self._step(),
            "max_iter": self.steps,
            "crop_padding": self.crop_padding,
            "flip": self.flip,
            "two_passes": self.two_passes,
            "passes": self.passes,
            "precision": self.precision,
            "compile": _on_cuda(module) if self.compile is None else self.compile,
        }
        if self.beta is not None:
            options["beta"] = self.beta
        if "exact" in METHODS[self.method].options:
            options["exact"] = self.exact
        return options

    def _step(self) -> float | None:
        """Return the length of the attack's steps, where the recipe has one; else the trainer's default holds."""
        if self.eps_step is None and (self.name, self.method, self.threat.norm) == ("paper", "trades", "L2"):
            return 2 * self.threat.eps / self.steps
        return self.eps_step

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for a checkpoint's ``recipe``."""
        values = asdict(self)
        step = self._step()
        step = self.threat.eps / 4 if step is None else step
        decay = [list(pair) for pair in self.decay]
        return values | {"recipe": values.pop("name"), "threat": str(self.threat), "eps_step": step, "decay": decay}


class _Decay:
    """The factor of the learning rate by epoch (or step). An object, so that a scheduler's state_dict holds it."""

    def __init__(self, decay: tuple[tuple[int, float], ...]) -> None:
        self.decay = decay

    def __call__(self, done: int) -> float:
        return next((factor for first, factor in reversed(self.decay) if done + 1 >= first), 1.0)


def _on_cuda(module: nn.Module | None) -> bool:
    parameter = None if module is None else next(module.parameters(), None)
    return torch.cuda.is_available() if parameter is None else parameter.is_cuda


_OWN_DATA = "Linf:8/255"
"""Where no threat model is in use for a data set, as for the user's own."""


def plain_recipe(method: str, dataset: str | None = None, *, threat: ThreatModel | str | None = None) -> Recipe:
    """Return a recipe to start from: SGD at 0.05, a cosine over 30 epochs, 10 attack steps, no augmentation.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        dataset: Its name decides on the threat model if none is given.
        threat: Norm and radius of the training attack; if absent, the ones in use for the data set, or ``Linf:8/255``.

    Raises:
        InputError: The method is unknown, or the threat model can't be read.
    """
    usual = DATASETS[dataset].threat if dataset in DATASETS else _OWN_DATA
    return Recipe(
        "plain",
        method,
        "a cosine schedule; no paper's",
        ThreatModel.parse(usual if threat is None else threat),
        beta=method_spec(method).beta,
    )


def fast_recipe(
    method: str,
    dataset: str,
    *,
    architecture: str | None = None,
    threat: ThreatModel | str | None = None,
    epochs: int = 30,
    image_size: int | None = None,
) -> Recipe:
    """Return a one-cycle recipe of about 30 epochs; bfloat16 where the hardware has it, compiled on a CUDA device.

    The learning rate peaks at 0.2 for networks with batch norm, as in Wong, Rice, Kolter, "Fast is better than
    free" (ICLR 2020, arXiv 2001.03994), and at 0.05 for the small networks without it. No paper's.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        dataset: Its name decides on the augmentation, and on the threat model if none is given.
        architecture: As :func:`art_classwise.build` knows it; if absent, a small network for MNIST and the digits
            and a ResNet for all else.
        threat: Norm and radius of the training attack; the ones in use for the data set if absent.
        epochs: Number of epochs.
        image_size: Side of the images, if they are resized: crops are padded in proportion.

    Raises:
        InputError: The method is unknown, or no threat model is given and none is in use for the data set.
    """
    spec = DATASETS.get(dataset)
    network = architecture if architecture is not None else spec and spec.network
    small = network in {own.network for own in DATASETS.values()} - {None}
    return Recipe(
        "fast",
        method,
        "a one-cycle schedule; no paper's",
        usual_threat(dataset) if threat is None else ThreatModel.parse(threat),
        beta=method_spec(method).beta,
        epochs=epochs,
        lr=0.05 if small else 0.2,
        nesterov=True,
        schedule="one-cycle",
        crop_padding=spec.crop_padding_at(image_size) if spec else 0,
        flip=spec is not None and spec.flip,
        compile=None,
    )


def paper_recipe(method: str, architecture: str, dataset: str) -> Recipe:
    """Return the published recipe of a method for an architecture and a data set; its ``source`` says whose.

    Papers' trainings computed in float32, as these do; ``override(precision="auto")`` makes them faster.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        architecture: As :func:`art_classwise.build` knows it.
        dataset: As :func:`art_classwise.load_dataset` knows it.

    Raises:
        InputError: The method is unknown, or no recipe of it is published for these two.
    """
    method_spec(method)
    if (method, architecture, dataset) not in _PAPERS:
        there = [f"{a} on {d}" for m, a, d in _PAPERS if m == method]
        raise InputError(
            f"There is no published recipe of {method} for {architecture} on {dataset}, only for "
            f"{', '.join(there)}. Take the fast one (`recipe='fast'`), or set each option."
        )
    return _PAPERS[method, architecture, dataset]


_LINF_8 = ThreatModel("Linf", 8 / 255)
_TRADES_CIFAR = Recipe(
    "paper",
    "trades",
    "Zhang et al., ICML 2019: the authors' script for CIFAR-10",
    ThreatModel("Linf", 0.031),
    eps_step=0.007,
    beta=6.0,
    epochs=76,
    lr=0.1,
    weight_decay=2e-4,
    schedule="decay",
    decay=((75, 0.1), (90, 0.01), (100, 0.001)),
    crop_padding=4,
    flip=True,
    two_passes=True,
    passes="cac",
    precision="fp32",
)
_TRADES_MNIST = Recipe(
    "paper",
    "trades",
    "Zhang et al., ICML 2019: the authors' script for MNIST",
    ThreatModel("Linf", 0.3),
    eps_step=0.01,
    steps=40,
    beta=1.0,
    epochs=100,
    lr=0.01,
    weight_decay=0.0,
    schedule="decay",
    decay=((55, 0.1), (75, 0.01), (90, 0.001)),
    two_passes=True,
    passes="cac",
    precision="fp32",
)
_MART_RESNET = replace(
    _TRADES_CIFAR,
    method="mart",
    source="Wang et al., ICLR 2020: the authors' script for ResNet-18",
    beta=5.0,
    epochs=120,
    lr=0.01,
    weight_decay=3.5e-3,
    passes=None,
    exact=True,
)
_MART_WIDE = replace(
    _MART_RESNET,
    source="Wang et al., ICLR 2020: the authors' script for WRN-34-10",
    beta=6.0,
    epochs=90,
    lr=0.1,
    weight_decay=7e-4,
)
_MART_UNLABELED = replace(
    _MART_WIDE,
    source="Wang et al., ICLR 2020, with 500,000 unlabelled images, as others tell it: 200 epochs of 50,000 examples, "
    "of which half are labelled, are 100 passes over those",
    epochs=100,
    batch_size=256,
    weight_decay=5e-4,
    nesterov=True,
    schedule="cosine",
    decay=(),
    unlabeled_fraction=0.5,
)
_MART_MNIST = replace(
    _TRADES_MNIST,
    method="mart",
    # Others' accounts say epochs, learning rate and attack. They don't say the rest.
    source="second-hand, not checked against Wang et al., ICLR 2020; beta is theirs for ResNet-18, batch size, "
    "momentum and no weight decay are TRADES' for MNIST",
    beta=5.0,
    epochs=50,
    decay=((20, 0.1), (40, 0.01)),
    passes=None,
    exact=True,
)
_STANDARD = Recipe(
    "paper",
    "standard",
    "Rice, Wong, Kolter, ICML 2020, for PreActResNet-18; there images are also standardised, and attacked in "
    "training mode",
    _LINF_8,
    eps_step=2 / 255,
    epochs=200,
    lr=0.1,
    schedule="decay",
    decay=((101, 0.1), (151, 0.01)),  # after 100 and after 150 epochs
    crop_padding=4,
    flip=True,
    precision="fp32",
)
_STANDARD_WIDE = replace(
    _STANDARD,
    source="Madry et al., ICLR 2018, for a wide ResNet with as many blocks; there images are also standardised",
    steps=7,
    epochs=205,  # 80,000 steps are 204.6
    weight_decay=2e-4,
    decay=((40_001, 0.1), (60_001, 0.01)),
    decay_unit="step",
)
_PAPERS: dict[tuple[str, str, str], Recipe] = {
    ("standard", "preactresnet18", "cifar10"): _STANDARD,
    ("standard", "resnet18", "cifar10"): _STANDARD,
    ("standard", "wrn-34-10", "cifar10"): _STANDARD_WIDE,
    ("trades", "wrn-34-10", "cifar10"): _TRADES_CIFAR,
    ("trades", "mnist-cnn", "mnist"): _TRADES_MNIST,
    ("mart", "resnet18", "cifar10"): _MART_RESNET,
    ("mart", "wrn-34-10", "cifar10"): _MART_WIDE,
    ("mart", "wrn-28-10", "cifar10"): _MART_UNLABELED,
    ("mart", "mnist-cnn", "mnist"): _MART_MNIST,
}
