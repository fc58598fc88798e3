"""The one search: projected steepest ascent of a loss, over tensors, with input gradients only.

Every gradient attack and every training method runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from art_classwise._state import evaluating, frozen
from art_classwise.threat import ThreatModel

__all__ = ["Loss", "SearchResult", "search"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(n, C) logits and (n,) labels -> (n,) values to ascend."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        x_adv: (n, ...) the last iterate, inside the ball and the box.
        zero_gradient: (n,) bool, whether the gradient was all zero or not finite in any step: such an
            example stood still for that step, and its robustness may be an illusion.
    """

    x_adv: Tensor
    zero_gradient: Tensor


def search(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Loss,
    *,
    eps_step: float,
    max_iter: int,
    low: Tensor,
    high: Tensor,
    start: Tensor | None = None,
    mask: Tensor | None = None,
) -> SearchResult:
    """Ascend ``loss`` from ``start`` for ``max_iter`` steps within the threat model (Madry et al. 2018, eq. 2).

    Runs in eval mode with frozen weights and leaves the module as it was.

    Args:
        module: Maps x to logits (n, C).
        x: (n, ...) the examples, inside the box.
        y: (n,) int64, passed on to ``loss``.
        threat: Norm and radius.
        loss: What to ascend, one value per example.
        eps_step: Length of a step, in the units of the radius.
        max_iter: Number of steps.
        low: Lower bound of the box, broadcastable to x.
        high: Upper bound of the box, broadcastable to x.
        start: (n, ...) where to start; ``x`` if absent. Brought into ball and box first.
        mask: Broadcastable to x; where it is 0 the example stays as it is.

    Returns:
        The last iterate, and which examples met a zero gradient.
    """
    zero_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    x_adv = x if start is None else threat.project(start, x, low, high)
    if mask is not None:
        x_adv = torch.where(mask == 0, x, x_adv)
    with evaluating(module), frozen(module):
        for _ in range(max_iter):
            with torch.enable_grad():
                x_adv = x_adv.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(module(x_adv), y).sum(), x_adv)
            with torch.no_grad():
                largest = gradient.flatten(1).abs().amax(1)
                zero_gradient |= ~((largest > 0) & largest.isfinite())
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                if mask is not None:
                    gradient = torch.where(mask == 0, 0.0, gradient)
                x_adv = threat.project(x_adv + eps_step * threat.steepest(gradient), x, low, high)
    return SearchResult(x_adv.detach(), zero_gradient)
