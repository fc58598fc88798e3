"""The one search: projected steepest ascent of a loss, over tensors, with input gradients only.

Every gradient attack and every training method runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.state import evaluating, frozen
from art_classwise.attacks._iterates import Iterates, Seen, Steps, is_degenerate, not_finite
from art_classwise.threat import ThreatModel, is_asked_freely, per_example

__all__ = [
    "Loss",
    "Observer",
    "SearchResult",
    "Solved",
    "derivative",
    "input_gradient",
    "is_degenerate",
    "not_finite",
    "of_rows",
    "search",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(m, C) logits and (m, ...) what they are compared with, labels for most -> (m,) values to ascend."""

Solved = Callable[[Tensor, Tensor], Tensor]
"""(m, C) logits and the (m,) rows of x that they belong to, ascending -> (m,) bool: whose attack has succeeded."""

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
    at_once: int | None = None,
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
        early_stop: Let those leave, and others in.
        observe: Called at each step; what it reads makes the host wait.
        n_excluded: Number of classes that were taken out of the module: their logits are minus infinity.
        at_once: With ``early_stop``, how many examples are computed at once, at most; all if absent.

    Returns:
        The last iterates, who stopped early, who met a zero gradient, and who gave no logits.
    """
    of_all = {
        "x": x,
        "y": y,
        "start": start,
        "length": _each(eps_step if isinstance(eps_step, Tensor) else None, x),
        "radius": _each(eps, x),
        "mask": _each(mask, x),
    }
    walk = _Walk(
        module,
        loss,
        Steps(threat, 0.0 if isinstance(eps_step, Tensor) else eps_step, low, high, momentum),
        max_iter,
        solved,
        observe,
        n_excluded,
    )
    with evaluating(module), frozen(module):
        if early_stop and solved is not None:
            return walk.until_solved(of_all, len(x) if at_once is None else at_once)
        return walk.together(of_all)


@dataclass
class _Walk:
    """A search, but for the examples that are searched for: see :func:`search`."""

    module: nn.Module
    loss: Loss
    steps: Steps
    max_iter: int
    solved: Solved | None
    observe: Observer | None
    n_excluded: int

    def together(self, of_all: dict[str, Any]) -> SearchResult:
        """Take all steps with all examples."""
        at = self.steps.first(torch.arange(len(of_all["x"]), device=of_all["x"].device), **of_all)
        seen = Seen(self.n_excluded)
        for step in range(self.max_iter):
            at.x_adv, _ = self._step(step, at, seen)
        seen.tell(at)
        return SearchResult(at.x_adv.detach(), at.stopped, at.zero_gradient, at.no_logits)

    def until_solved(self, of_all: dict[str, Any], at_once: int) -> SearchResult:
        """Take steps with each example until its attack succeeds, with as many at once as there is room for."""
        x: Tensor = of_all["x"]
        rows = torch.arange(len(x), device=x.device)
        found, (stopped, zero_gradient, no_logits) = (
            x.clone(),
            torch.zeros(3, len(x), dtype=torch.bool, device=x.device),
        )
        on_host = is_asked_freely(x.device)
        seen = Seen(self.n_excluded)
        at, taken, entered, number = None, np.zeros(0, dtype=np.int64), 0, 0
        while True:
            room = at_once - len(taken)
            if entered < len(x) and room >= at_once / _REFILLS:
                new = self.steps.first(rows[entered : entered + room], **_part(of_all, entered, entered + room))
                if at is not None:
                    seen.tell(at)
                at = new if at is None else at.beside(new)
                taken = np.concatenate([taken, np.zeros(len(new), dtype=np.int64)])
                entered += len(new)
            if at is None or len(at) == 0:
                return SearchResult(found, stopped, zero_gradient, no_logits)
            moved, at.stopped = self._step(int(taken[0]), at, seen, None if on_host else at.stopped)
            taken, number = taken + 1, number + 1
            is_last = taken == self.max_iter
            if not (on_host or self.observe is not None or number % _STEPS_UNASKED == 0 or is_last.any()):
                at.x_adv = torch.where(per_example(at.stopped, x), at.x_adv, moved)
                continue
            # The one place where the host waits: it must know how many stay, to compute for no others.
            leaves = is_last | at.stopped.cpu().numpy()
            if leaves.any():
                seen.tell(at)
                leave, stay = (torch.from_numpy(np.flatnonzero(who)).to(x.device) for who in (leaves, ~leaves))
                gone = at[leave]
                found[gone.rows] = torch.where(per_example(gone.stopped, x), gone.x_adv, moved[leave])
                stopped[gone.rows], zero_gradient[gone.rows] = gone.stopped, gone.zero_gradient
                no_logits[gone.rows] = gone.no_logits
                at.x_adv, taken = moved, taken[~leaves]
                at = at[stay]
            else:
                at.x_adv = moved

    def _step(self, step: int, at: Iterates, seen: Seen, stopped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return points one step on, and whose attack has succeeded (m,), now or before; note what was seen."""
        with torch.enable_grad():
            x_adv = at.x_adv.detach().requires_grad_()
            logits = self.module(x_adv)
            gradient = input_gradient(self.loss(logits, at.y).sum(), x_adv)
        with torch.no_grad():
            size, logits = gradient.abs(), logits.detach()
            largest = size.flatten(1).amax(1)
            done = None if self.solved is None else self.solved(logits, at.rows)
            if done is not None and stopped is not None:
                done = done | stopped
            seen.add(logits, largest, done)
            if self.observe is not None:
                self.observe(step, at.rows, x_adv.detach(), gradient)
            moved = self.steps.after(at, gradient, size, largest)
            return moved, at.stopped if done is None else done


# Where the host would have to wait for a GPU, those who are done stay where they are for a few steps.
_STEPS_UNASKED = 4
_REFILLS = 8  # where others wait, an eighth of those who are searched for may be missing


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


def _each(value: Tensor | None, x: Tensor) -> Tensor | None:
    """Give a tensor that broadcasts to x (n, ...) a first side of n, so that it can be indexed as x is."""
    if value is None:
        return None
    shape = [1] * (x.dim() - value.dim()) + list(value.shape)
    return value.view(shape).expand(len(x), *shape[1:])


def _part(of_all: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    return {name: None if t is None else t[begin:end] for name, t in of_all.items()}


def of_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the values of rows that a search tells: ascending, so that as many as there are values are all of them."""
    return values if len(rows) == len(values) else values[rows]
