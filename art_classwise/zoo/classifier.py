"""Any torch module as an ART classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from art_classwise._estimator import check_logits
from art_classwise._state import evaluating
from art_classwise.errors import InputError

__all__ = ["as_classifier"]


def as_classifier(
    module: nn.Module,
    input_shape: Sequence[int],
    n_classes: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | None = None,
) -> Any:
    """Wrap a module for ART.

    Args:
        module: Maps images in [0, 1], float32 (n, C, H, W), to logits (n, n_classes); normalisation is its own.
        input_shape: Shape of an image, (C, H, W).
        n_classes: Number of classes.
        optimizer: Needed for training only.
        device: ``"cpu"`` or ``"cuda"``; the GPU where there is one, if absent. The module moves there.

    Returns:
        An ``art.estimators.classification.PyTorchClassifier`` with clip values (0, 1) and cross-entropy.

    Raises:
        InputError: The module does not take such images or does not return such logits, or the device is
            unknown or not there.
    """
    from art.estimators.classification import PyTorchClassifier

    if device not in (None, "cpu", "cuda"):
        raise InputError(f'`device` must be "cpu" or "cuda", but got {device!r}.')
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError('`device="cuda"` was asked for, but torch sees no CUDA GPU; use device="cpu".')
    shape = tuple(int(side) for side in input_shape)
    tensor = next((t for t in [*module.parameters(), *module.buffers()]), torch.empty(0))
    with evaluating(module), torch.no_grad():
        try:
            logits = module(torch.zeros(1, *shape, device=tensor.device))
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"The module can't take images of shape {shape}: {str(error).splitlines()[0]}") from error
    check_logits(logits, 1, n_classes)
    return PyTorchClassifier(
        model=module,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=shape,
        nb_classes=n_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if device == "cpu" else "gpu",
    )
