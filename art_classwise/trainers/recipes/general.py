"""Recipes for any data set: a plain one, and a fast one. No paper's."""

from __future__ import annotations

from art_classwise.attacks import usual_threat
from art_classwise.threat import ThreatModel
from art_classwise.trainers.recipes.recipe import USUAL_BETA, Recipe

__all__ = ["fast_recipe", "plain_recipe"]

_SMALL = {"digits-cnn": "digits", "mnist-cnn": "mnist"}
"""Networks without batch norm, and what they are for."""
_AUGMENTATION = {  # a ninth to an eighth of the side; digits and house numbers would be others when mirrored
    "cifar10": (4, True),
    "cifar100": (4, True),
    "svhn": (4, False),
    "stl10": (12, True),
}


def plain_recipe(method: str, *, threat: ThreatModel | str = "Linf:8/255") -> Recipe:
    """Return a recipe to start from: SGD at 0.05, a cosine over 30 epochs, 10 attack steps, no augmentation.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        threat: Norm and radius of the training attack.

    Raises:
        InputError: The method is unknown, or the threat model can't be read.
    """
    return Recipe(
        "plain",
        method,
        "a cosine schedule; no paper's",
        ThreatModel.parse(threat),
        beta=USUAL_BETA.get(method),
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
    small = architecture in _SMALL if architecture is not None else dataset in _SMALL.values()
    crop_padding, flip = _AUGMENTATION.get(dataset, (0, False))
    return Recipe(
        "fast",
        method,
        "a one-cycle schedule; no paper's",
        usual_threat(dataset) if threat is None else ThreatModel.parse(threat),
        beta=USUAL_BETA.get(method),
        epochs=epochs,
        lr=0.05 if small else 0.2,
        nesterov=True,
        schedule="one-cycle",
        crop_padding=crop_padding,
        flip=flip,
        compile=None,
    )
