"""The one search: projected steepest ascent of a loss, over tensors, with input gradients only.

Every gradient attack and every training method runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.state import evaluating, frozen
from art_classwise.threat import ThreatModel, per_example

__all__ = [
    "Loss",
    "Observer",
    "SearchResult",
    "Solved",
    "derivative",
    "input_gradient",
    "is_degenerate",
    "not_finite",
    "search",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(m, C) logits and (m, ...) what they are compared with, labels for most -> (m,) values to ascend."""

Solved = Callable[[Tensor, Tensor], Tensor]
"""(m, C) logits and the (m,) rows of x that they belong to -> (m,) bool: whose attack has succeeded."""

Observer = Callable[[int, Tensor, Tensor, Tensor], object]
"""Step, (m,) rows of x still searched for, their points and the gradients there, (m, ...) each."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        x_adv: (n, ...) the last iterates, or where the search stopped early the iterates that made it stop; inside
            the ball and the box.
        stopped: (n,) bool, whether the search stopped early.
        zero_gradient: (n,) bool, whether the gradient was all zero or not finite in any step, the example being
            unsolved: it stood still for that step, and its robustness may be an illusion.
        no_logits: (n,) bool, whether a logit was NaN or infinite in any step.
    """

    x_adv: Tensor
    stopped: Tensor
    zero_gradient: Tensor
    no_logits: Tensor


def search(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Loss,
    *,
    eps_step: float | Tensor,
    max_iter: int,
    low: Tensor,
    high: Tensor,
    eps: Tensor | None = None,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    momentum: float = 0.0,
    solved: Solved | None = None,
    early_stop: bool = False,
    observe: Observer | None = None,
    n_excluded: int = 0,
) -> SearchResult:
    """Ascend ``loss`` from ``start`` for ``max_iter`` steps within the threat model (Madry et al. 2018, eq. 2).

    Runs in eval mode with frozen weights and leaves the module as it was.

    Args:
        module: Maps x to logits (n, C).
        x: (n, ...) the examples, inside the box.
        y: (n, ...), passed on to ``loss``: the labels, for most losses.
        threat: Norm and radius.
        loss: What to ascend, one value per example.
        eps_step: Length of a step, in the units of the radius; broadcastable to x.
        max_iter: Number of steps.
        low: Lower bound of the box, broadcastable to an example.
        high: Upper bound of the box, broadcastable to an example.
        eps: Radii in place of the threat model's: (n, 1, ..., 1), or for Linf broadcastable to x.
        start: (n, ...) where to start; ``x`` if absent. Brought into ball and box first.
        mask: Broadcastable to x; where it is 0 the example stays as it is.
        momentum: How much of the sum of the past steps' gradients, each divided by its L1 norm, is kept (Dong et
            al. 2018, arXiv 1710.06081, eq. 6); 0 is none.
        solved: Whose attack has succeeded; asked at each iterate, if given.
        early_stop: Let those leave.
        observe: Called at each step; what it reads makes the host wait.
        n_excluded: Number of classes that were taken out of the module: their logits are minus infinity.

    Returns:
        The last iterates, who stopped early, who met a zero gradient, and who gave no logits.
    """
    # With early stop the batch shrinks: all that belongs to an example is one of these, and is taken along.
    rows = torch.arange(len(x), device=x.device)
    radii, masks = _each(eps, x), _each(mask, x)
    steps = _each(eps_step if isinstance(eps_step, Tensor) else x.new_full((1,), eps_step), x)
    assert steps is not None
    velocity: Tensor | None = None
    x_adv = x if start is None else threat.project(start, x, low, high, eps)
    if mask is not None:
        x_adv = torch.where(mask == 0, x, x_adv)
    coordinates = _coordinates(threat, x, radii, low, high) if threat.norm == "L1" else None
    found = x_adv.clone()
    stopped, zero_gradient, no_logits = torch.zeros(3, len(x), dtype=torch.bool, device=x.device)
    with evaluating(module), frozen(module):
        for step in range(max_iter):
            with torch.enable_grad():
                x_adv = x_adv.detach().requires_grad_()
                logits = module(x_adv)
                gradient = input_gradient(loss(logits, y).sum(), x_adv)
            with torch.no_grad():
                x_adv, logits = x_adv.detach(), logits.detach()
                no_logits[rows] |= not_finite(logits, n_excluded)
                zero = is_degenerate(gradient)
                done = None if solved is None else solved(logits, rows)
                zero_gradient[rows] |= zero if done is None else zero & ~done
                if observe is not None:
                    observe(step, rows, x_adv, gradient)
                if early_stop and done is not None:
                    # The one place where the host waits: it must know how many stay, to compute for no others.
                    (leave,) = done.nonzero(as_tuple=True)
                    if len(leave):
                        stopped[rows[leave]] = True
                        found[rows[leave]] = x_adv[leave]
                        (stay,) = (~done).nonzero(as_tuple=True)
                        rows, x, y, x_adv, gradient = (t[stay] for t in (rows, x, y, x_adv, gradient))
                        steps = steps[stay]
                        radii, masks, velocity, coordinates = (
                            None if t is None else t[stay] for t in (radii, masks, velocity, coordinates)
                        )
                        if len(stay) == 0:
                            break
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                if momentum:
                    gradient = gradient / per_example(gradient.flatten(1).abs().sum(1).clamp_min(_TINY), gradient)
                    velocity = gradient if velocity is None else momentum * velocity + gradient
                    gradient = velocity
                if masks is not None:
                    gradient = torch.where(masks == 0, 0.0, gradient)
                if threat.norm == "L1":  # else the few coordinates of a step are spent where the box ends
                    outward = ((x_adv <= low) & (gradient < 0)) | ((x_adv >= high) & (gradient > 0))
                    gradient = torch.where(outward, 0.0, gradient)
                x_adv = threat.project(x_adv + steps * threat.steepest(gradient, coordinates), x, low, high, radii)
    if not early_stop:
        found = x_adv.detach()
    elif len(rows):
        found[rows] = x_adv.detach()
    return SearchResult(found, stopped, zero_gradient, no_logits)


def input_gradient(value: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    """Return the gradient at x: zero, where none goes through the network, such as through a rounding to a table.

    Args:
        value: A number, computed from x.
        x: (n, ...), which requires a gradient.
        keep: Whether another gradient through the same pass follows.
    """
    gradient = derivative(value, x, keep=keep)
    return torch.zeros_like(x) if gradient is None else gradient


def derivative(value: Tensor, x: Tensor, *, keep: bool = False) -> Tensor | None:
    """Return the gradient at x, or None where none goes through the network: see :func:`input_gradient`."""
    if not value.requires_grad:
        return None
    try:
        return torch.autograd.grad(value, x, allow_unused=True, retain_graph=keep)[0]
    except RuntimeError as error:
        absent = isinstance(error, NotImplementedError) or any(said in str(error) for said in _NO_DERIVATIVE)
        if is_out_of_memory(error) or not absent:
            raise
        return None


# What torch says where a function of the network's, or of its own, has no derivative.
_NO_DERIVATIVE = ("You must implement either the backward", "derivative", "does not require grad", "not differentiable")

_TINY = torch.finfo(torch.float32).tiny


def is_degenerate(gradient: Tensor) -> Tensor:
    """Return which gradients (m, ...) are all zero or not finite (m,)."""
    largest = gradient.flatten(1).abs().amax(1)
    return ~((largest > 0) & largest.isfinite())


def not_finite(logits: Tensor, n_excluded: int = 0) -> Tensor:
    """Return which rows (m,) of logits (m, C) have NaN or infinity beside those of the classes taken out."""
    return logits.isfinite().sum(1) < logits.shape[1] - n_excluded


def _coordinates(threat: ThreatModel, x: Tensor, eps: Tensor | None, low: Tensor, high: Tensor) -> Tensor:
    """Return how many coordinates of each example an L1 step should change: 1 % (SLIDE), more where balls are large.

    At the usual step of eps / 4 a coordinate then moves by at most an eighth of the box: what goes beyond the box is
    lost.
    """
    d = x[0].numel()
    radii = x.new_full((len(x),), threat.eps) if eps is None else eps.flatten(1)[:, 0]
    return (2 * radii / (high - low).max()).round().clamp(max(1, round(d / 100)), d).long()


def _each(value: Tensor | None, x: Tensor) -> Tensor | None:
    """Give a tensor that broadcasts to x (n, ...) a first side of n, so that it can be indexed as x is."""
    if value is None:
        return None
    shape = [1] * (x.dim() - value.dim()) + list(value.shape)
    return value.view(shape).expand(len(x), *shape[1:])
