"""Corrupted images as one more attack, which nobody chooses: an image in place of each clean one."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator

from art_classwise._core.arrays import as_array
from art_classwise._core.labels import check_labels
from art_classwise.attacks._base import Parameters
from art_classwise.datasets.corruptions import Corrupted, CorruptedImages
from art_classwise.errors import InputError

__all__ = ["Corruption", "is_adversary"]


@dataclass(eq=False, repr=False)
class Corruption(Parameters):
    """Put a corrupted image in place of each clean one (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    No adversary: it knows neither the network nor a norm, and an example that is wrong when clean may be right when
    corrupted. An audit judges it by the prediction on the corrupted image alone.

    Args:
        estimator: The ART classifier, which is never asked.
        corruption: E.g. ``"fog"``.
        severity: 1 to 5, the strongest.
        images: Where the images come from.

    Attributes:
        source: The name of their folder, or ``"made"``.
        digest: What tells the images from others: of CIFAR-10-C, the SHA-256 of the corruption's file.
    """

    kind: ClassVar[str] = "Corruption"
    _estimator_requirements = (BaseEstimator, ClassifierMixin)
    attack_params: ClassVar[list[str]] = [*Parameters.attack_params, "corruption", "severity", "source", "digest"]
    uses_example_ids = True

    estimator: InitVar[Any] = field()  # without one, ART's property would be its default
    corruption: str = field()
    severity: int = field()
    images: CorruptedImages = field()

    def __post_init__(self, estimator: Any) -> None:
        self._start(estimator)
        self._check_params()
        self.source = self.images.source
        self.digest = self.images.digest(self._one)

    @property
    def _one(self) -> Corrupted:
        return Corrupted(self.corruption, self.severity)

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return the corrupted images of these examples.

        Args:
            x: (n, C, H, W) the clean images.
            y: Their true labels: images in another order are found out by them.
            **kwargs: ``example_ids``, (n,), the examples' numbers in the whole set; 0 to n - 1 if absent.

        Returns:
            float32 (n, C, H, W) in [0, 1].

        Raises:
            InputError: There are no labels, or no such images of these examples.
        """
        images = as_array(x, "x").astype(np.float32, copy=False)
        if y is None:
            raise InputError("Corrupted images are looked up with their labels: give y, the true ones.")
        labels = check_labels(y, len(images), self.estimator.nb_classes)
        given = kwargs.get("example_ids")
        ids = np.arange(len(images)) if given is None else np.asarray(given, dtype=np.int64)
        return self.images.images(self._one, ids, images, labels)


def is_adversary(attack: Any) -> bool:
    """Return whether an attack chooses what it does, within the threat model."""
    return not isinstance(attack, Corruption)
