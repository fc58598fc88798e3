"""The border to ART: its estimators as plain torch modules, and what they take."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel

__all__ = ["check_classifier", "check_images", "check_logits", "clip_bounds", "logits_module", "predict_logits"]


def logits_module(estimator: Any) -> nn.Module:
    """Return the estimator as a module from images to logits, ART's preprocessing included.

    Args:
        estimator: An ART ``PyTorchClassifier``.

    Raises:
        InputError: A preprocessing defence is not written in PyTorch, so no gradient flows through it.
    """
    operations = [p for p in estimator.preprocessing_operations if not _is_identity(p)]
    if not operations:
        return cast(nn.Module, estimator.model)
    if not estimator.all_framework_preprocessing:
        named = ", ".join(type(p).__name__ for p in operations)
        raise InputError(
            f"No gradient flows through the preprocessing {named}: use ART's PyTorch version of it "
            "(e.g. SpatialSmoothingPyTorch), or attack the classifier without it."
        )
    return _WithPreprocessing(estimator)


class _WithPreprocessing(nn.Module):
    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.model = estimator.model
        self._estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        preprocessed, _ = self._estimator._apply_preprocessing(x, y=None, fit=False, no_grad=False)
        return cast(Tensor, self.model(preprocessed))


def _is_identity(operation: Any) -> bool:
    """ART adds a standardisation with mean 0 and deviation 1 to classifiers that asked for none."""
    if not type(operation).__name__.startswith("StandardisationMeanStd"):
        return False
    return bool(np.all(np.asarray(operation.mean) == 0) and np.all(np.asarray(operation.std) == 1))


def clip_bounds(estimator: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the estimator's ``clip_values`` as tensors; the whole line where it has none."""
    low, high = estimator.clip_values if estimator.clip_values is not None else (-np.inf, np.inf)
    return (
        torch.as_tensor(low, dtype=torch.float32, device=device),
        torch.as_tensor(high, dtype=torch.float32, device=device),
    )


def check_classifier(what: str, classifier: Any) -> None:
    """Check that something is an ART ``PyTorchClassifier``.

    Raises:
        InputError: It isn't.
    """
    from art.estimators.classification import PyTorchClassifier  # seconds, which building a network needn't wait

    if not isinstance(classifier, PyTorchClassifier):
        raise InputError(
            f"{what} must be an ART PyTorchClassifier, but is a {type(classifier).__name__}; "
            "as_classifier() makes one of any torch module."
        )


def check_images(
    images: npt.NDArray[np.float32], estimator: Any, threat: ThreatModel, *, tolerance: float = 0.0
) -> None:
    """Check that images (n, ...) are what the estimator takes, and that the radius suits their range.

    Args:
        images: The images.
        estimator: An ART classifier.
        threat: The threat model they are to be attacked within.
        tolerance: By how much a value may miss ``clip_values``: rounding, in images that were computed.

    Raises:
        InputError: There is none; they are of another shape, not finite or outside ``clip_values``; or the radius
            covers the whole range.
    """
    if len(images) == 0:
        raise InputError("There is no example: x is empty.")
    if images.shape[1:] != tuple(estimator.input_shape):
        raise InputError(
            f"The classifier takes images of shape {tuple(estimator.input_shape)}, but x holds images of shape "
            f"{images.shape[1:]}: is the channel the first axis of an image?"
        )
    finite = np.isfinite(images).reshape(len(images), -1).all(1)
    if not finite.all():
        raise InputError(f"Example {int(finite.argmin())} has a value that is not finite: x must be finite.")
    if estimator.clip_values is None:
        return
    low, high = (np.asarray(bound, dtype=np.float32) for bound in estimator.clip_values)
    inside = ((images >= low - tolerance) & (images <= high + tolerance)).reshape(len(images), -1).all(1)
    if not inside.all():
        first = int(inside.argmin())
        raise InputError(
            f"x must lie within the classifier's clip_values [{low.min():g}, {high.max():g}], but goes from "
            f"{images.min():g} to {images.max():g}. Example {first} has values from {images[first].min():g} to "
            f"{images[first].max():g}, outside of it: scale the images."
        )
    if np.isfinite(low).all() and np.isfinite(high).all():
        threat.check_radius(float(low.min()), float(high.max()), images[0].size)


def check_logits(logits: Any, n_examples: int, n_classes: int) -> Tensor:
    """Return what a model gave for a batch if it is (n, C) logits.

    Raises:
        InputError: It is a tuple or another type, or of another shape.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"The model must return a tensor of logits, but returned {type(logits).__name__}: "
            "wrap it in a module that returns the logits alone."
        )
    if logits.shape != (n_examples, n_classes):
        raise InputError(
            f"The model must return logits of shape ({n_examples}, {n_classes}) for {n_examples} examples of "
            f"{n_classes} classes, but returned {tuple(logits.shape)}."
        )
    return logits


@torch.no_grad()
def predict_logits(module: nn.Module, x: Tensor, n_classes: int) -> Tensor:
    """Return float32 logits (n, C) of one batch; the module must be in the mode that is wanted."""
    return check_logits(module(x), len(x), n_classes).float()
