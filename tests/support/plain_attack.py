"""A plain attack: projected gradient descent on the module itself, step by step, on copies of the input."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

__all__ = ["plain_attack", "plain_logits", "plain_prediction"]


def plain_logits(module: nn.Module, x: Tensor) -> Tensor:
    """Return logits (n, C) of inputs in float64, whatever the module's dtype, by a copy that it may write into."""
    dtypes = [p.dtype for p in module.parameters() if p.is_floating_point()]
    alike = len(set(dtypes)) == 1
    try:
        return module(x.clone()).double()
    except RuntimeError as error:
        if not alike or "type" not in str(error):
            raise
    return module(x.to(dtypes[0]).clone()).double()


@torch.no_grad()
def plain_prediction(module: nn.Module, x: Tensor) -> Tensor:
    """Return the classes (n,) that the module takes inputs for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(plain_logits(module, x)).argmax(1)


def plain_attack(
    module: nn.Module, x: Tensor, y: Tensor, norm: float = math.inf, eps: float = 0.1, steps: int = 10, sign: int = 1
) -> Tensor:
    """Return points (n, ...) in the ball and in [0, 1] after steps of eps / 4 from a random start.

    Where the module has no gradient, the points stand still.

    Args:
        module: Maps inputs to logits, in eval mode.
        x: (n, ...) inputs.
        y: (n,) labels.
        norm: Infinity, 2 or 1.
        eps: Radius.
        steps: Number of steps.
        sign: 1 ascends the cross-entropy of the labels, -1 descends it.
    """
    drawn = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 1
    points = (x + _into_ball(drawn * eps, norm, eps)).clamp(0, 1)
    for _ in range(steps):
        asked = points.detach().requires_grad_()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nn.functional.cross_entropy(plain_logits(module, asked), y, reduction="sum").backward()
        except (RuntimeError, NotImplementedError):
            break  # it has no gradient
        if asked.grad is None:
            break
        delta = points + sign * eps / 4 * _steepest(asked.grad, norm) - x
        points = (x + _into_ball(delta, norm, eps)).clamp(0, 1)
    for parameter in module.parameters():
        parameter.grad = None
    return points.detach()


def _flat(delta: Tensor, norm: float) -> Tensor:
    return delta.flatten(1).norm(norm, dim=1).clamp_min(1e-12).view(-1, *[1] * (delta.dim() - 1))


def _into_ball(delta: Tensor, norm: float, eps: float) -> Tensor:
    return delta.clamp(-eps, eps) if norm == math.inf else delta * (eps / _flat(delta, norm)).clamp_max(1)


def _steepest(gradient: Tensor, norm: float) -> Tensor:
    if norm == math.inf:
        return gradient.sign()
    if norm == 1:  # the largest twentieth of the coordinates
        size = gradient.flatten(1).abs()
        least = size.topk(max(1, size.shape[1] // 20), dim=1).values[:, -1]
        gradient = gradient.sign() * (gradient.abs() >= least.view(-1, *[1] * (gradient.dim() - 1)))
    return gradient / _flat(gradient, norm)
