"""ART's classifier, which gives a network images in the type and the memory that it may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

__all__ = ["Classifier"]


class Classifier(PyTorchClassifier):
    """ART's ``PyTorchClassifier``, whose network always gets images of its own type, in memory of their own.

    With NumPy 2, ART's HopSkipJump, BoundaryAttack and FeatureSqueezing hand float64 images to a network of float32
    weights, which raises. And what ART hands to a network is the caller's array, which the network may write into.

    Attributes:
        own_type: The type of images that the network takes.
    """

    own_type: torch.dtype = torch.float32

    def _apply_preprocessing(self, x: Any, y: Any, fit: bool = False, no_grad: bool = True) -> tuple[Any, Any]:
        x, y = super()._apply_preprocessing(x, y, fit=fit, no_grad=no_grad)
        if isinstance(x, Tensor) and x.is_floating_point():
            x = x.to(self.own_type, copy=True)
        elif isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
            # NumPy has no bfloat16; a network of these weights takes float32 from ART only under autocast.
            own = np.float32 if self.own_type == torch.bfloat16 else torch.empty(0, dtype=self.own_type).numpy().dtype
            x = np.array(x, dtype=own)
        return x, y
