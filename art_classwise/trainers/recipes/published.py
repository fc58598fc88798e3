"""Recipes: plain and fast ones, and those of the papers."""

from __future__ import annotations

from dataclasses import replace

from art_classwise.attacks import usual_threat
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers.catalog import method_spec
from art_classwise.trainers.recipes.recipe import Recipe

__all__ = ["fast_recipe", "paper_recipe", "plain_recipe"]

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
        crop_padding=spec.crop_padding if spec else 0,
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
            f"{', '.join(there)}. Take the fast recipe (--recipe fast on the command line), or set each option."
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
