"""The border to ART: its estimators as plain torch modules, its labels as indices."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise.errors import InputError

__all__ = ["check_labels", "check_logits", "check_shape", "clip_bounds", "logits_module", "predict_logits"]


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


def check_shape(images: npt.NDArray[Any], estimator: Any) -> None:
    """Check that images (n, ...) have the shape that the estimator takes.

    Raises:
        InputError: They haven't.
    """
    if images.shape[1:] != tuple(estimator.input_shape):
        raise InputError(
            f"The classifier takes images of shape {tuple(estimator.input_shape)}, but x holds images of shape "
            f"{images.shape[1:]}: is the channel the first axis of an image?"
        )


def check_labels(y: npt.ArrayLike, n_examples: int, n_classes: int) -> npt.NDArray[np.int64]:
    """Return labels as int64 (n,) from indices (n,), (n, 1) or one-hot (n, C).

    Raises:
        InputError: The shape is none of these, the length isn't ``n_examples``, or a label is no class.
    """
    array = np.asarray(y)
    if len(array) != n_examples:
        raise InputError(f"x and y differ in length: {n_examples} examples, but {len(array)} labels.")
    if array.ndim == 2 and array.shape[1] == n_classes and n_classes > 1:
        array = array.argmax(1)
    elif array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"Labels must be indices (n,) or one-hot (n, {n_classes}), but got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        if not (np.issubdtype(array.dtype, np.number) and bool(np.all(array == np.floor(array)))):
            raise InputError(f"Labels must be whole numbers, but got {array.dtype} such as {array[0]!r}.")
        array = array.astype(np.int64)
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            f"Label {array[first]} of example {first} is outside the {n_classes} classes 0 to {n_classes - 1}."
        )
    return array.astype(np.int64)


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
