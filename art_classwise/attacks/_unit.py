"""A classifier as the members of AutoAttack see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.passes import Passes
from art_classwise._core.state import float32
from art_classwise.attacks._checks import check_finite
from art_classwise.attacks.search import derivative, input_gradient

__all__ = ["Unit"]


class Unit(nn.Module):
    """A classifier as a module over images (C, H, W) in [0, 1], which is what members attack.

    Attributes:
        seen_shape: (C, H, W), as which members see the classifier's inputs.
        guarded: Whether inputs get a gradient of zero where none goes through the network: it takes a pass more.
    """

    def __init__(self, estimator: Any, model: nn.Module, micro_batch_size: int | None, guarded: bool = False) -> None:
        super().__init__()
        self.module = Passes(art_interface.logits_module(estimator, model), micro_batch_size)
        self.low, self.high = art_interface.clip_bounds(estimator, estimator.device)
        self.width, self.n_classes = float(self.high - self.low), estimator.nb_classes
        self.input_shape, self.seen_shape = tuple(estimator.input_shape), image_shape(estimator.input_shape)
        self.guarded = guarded

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 0:  # Square asks so where all margins are 0; many networks can't
            return x.new_zeros(0, self.n_classes)
        if self.guarded and torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = cast(Any, _Guarded).apply(x, self._logits)
            return logits
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits = self.module(torch.add(self.low, x.reshape(len(x), *self.input_shape), alpha=self.width))
        return art_interface.check_logits(logits, len(x), self.n_classes).clone()  # Square writes into what it gets

    def verdict(self, x: Tensor, rows: npt.NDArray[np.intp]) -> Tensor:
        """Return what the module takes images x of these rows for, in the classifier's own units, exactly (m,)."""
        logits = art_interface.exact_logits(self.module, x, self.n_classes)
        check_finite(~logits.isfinite().all(1), rows)
        return logits.argmax(1)

    def margin_gradient(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Return the margin's gradient at images x (m, ...), or None if none goes through the network."""
        with torch.enable_grad(), float32(x.device.type):
            x = x.requires_grad_()
            return derivative(losses.margin(self.module(x), y).sum(), x)


class _Guarded(torch.autograd.Function):
    """A module whose inputs get a gradient of zero where none goes through it. It is computed again for gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return module(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return input_gradient((ctx.module(x) * gradient).sum(), x), None


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return how members see inputs of a shape: as images (C, H, W), which most are."""
    *others, height, width = (1, 1, *shape)
    return (math.prod(others), height, width)
