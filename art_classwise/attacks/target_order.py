"""In which order an attack tries target classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from art_classwise._core.options import Check
from art_classwise._core.state import evaluating, frozen
from art_classwise.attacks.search import input_gradient
from art_classwise.errors import unknown
from art_classwise.threat import Norm, dual_norm

__all__ = ["TargetOrder", "check_target_order", "malt_order"]

TargetOrder: TypeAlias = Literal["logits", "malt"]

_MOST = 100
"""Targets whose gradients are computed: the likeliest ones, as in the paper."""

_TINY = 1e-30


def _check(name: str, order: object) -> object:
    if order not in ("logits", "malt"):
        raise unknown(f"value of `{name}`", order, ("logits", "malt"))
    return order


check_target_order: Check = _check


def malt_order(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    check: Callable[[Tensor], Tensor],
    allowed: Tensor | None = None,
) -> Tensor:
    """Return target classes, first those whose boundary is nearest to first order (Melamed et al. 2024, MALT).

    They are sorted by (z_y - z_j) / ||grad(z_y - z_j)||, the dual norm of the gradient: L1 for Linf, as in the paper.
    Of more than 100 classes, the gradients of the 100 likeliest are computed; the others follow by their logits.

    Args:
        module: Maps x to logits (n, C).
        x: (n, ...) examples.
        y: (n,) their labels.
        norm: Of the perturbations.
        check: Checks what the module returns.
        allowed: (n, C) bool, which classes count; all but the label if absent.

    Returns:
        (n, C) int64: those allowed come first, the others stand at the end in no particular order.
    """
    with evaluating(module), frozen(module), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = check(module(x))
        if allowed is None:
            allowed = torch.ones_like(logits, dtype=torch.bool).scatter(1, y[:, None], False)
        ranked = logits.detach().masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
        own = logits.gather(1, y[:, None])[:, 0]
        count = min(_MOST, int(allowed.sum(1).max()))
        if count == 0:
            return ranked
        nearness = []
        for rank in range(count):
            margin = own - logits.gather(1, ranked[:, rank : rank + 1])[:, 0]
            gradient = input_gradient(margin.sum(), x, keep=rank + 1 < count)
            slope = dual_norm(gradient, norm)
            nearness.append((margin.detach() / slope.clamp_min(_TINY)).nan_to_num(torch.inf))
    value = torch.stack(nearness, 1)
    value = value.masked_fill(~allowed.gather(1, ranked[:, :count]), torch.inf)
    first = ranked[:, :count].gather(1, value.argsort(dim=1, stable=True))
    return torch.cat([first, ranked[:, count:]], 1)
