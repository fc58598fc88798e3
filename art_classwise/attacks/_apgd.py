"""Auto-PGD, on one loss or target by target; examples leave once they are broken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, TypeAlias

import torch
from pyautoattack.autopgd_base import L1_projection
from torch import Tensor

from art_classwise import losses
from art_classwise._core.forward import in_passes
from art_classwise.attacks.search import input_gradient
from art_classwise.threat import Norm, per_example

__all__ = ["APGD", "Loss", "Order"]

Loss: TypeAlias = Literal["ce", "dlr", "dlr-targeted"]

Order: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Images (n, C, H, W) and labels (n,) -> classes (n, K), in the order in which they are to be targets."""

_LOSSES: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda logits, y, target: losses.cross_entropy(logits, y),
    "dlr": lambda logits, y, target: losses.dlr(logits, y),
    "dlr-targeted": losses.dlr_targeted,
}

_MOMENTUM = 0.25  # share of the last move in the next: the paper's 1 - alpha
_RHO = 0.75  # share of the steps between two checkpoints that must raise the loss
_CHECKPOINTS = (0.22, 0.03, 0.06)  # shares of all steps: before the first, how many fewer before the next, the fewest
_LARGER = (3.0, 2.0)  # times the radius: where L1 searches first, in _LARGER_STEPS of all steps each
_LARGER_STEPS = 0.3
_L1_CHECKPOINTS = 0.04  # share of the steps at one radius between two checkpoints
_L1_RHO = 0.95  # times the changed pixels at the last checkpoint: with as many or more, steps become shorter
_L1_SHORTER, _L1_SHORTEST = 1.5, 10.0  # divisors: of a step at a checkpoint, and of the radius
_L1_SPARSER = 1.5  # a step changes the pixels of the best point, divided by it
_TINY, _TINY_L1 = 1e-12, 1e-10  # added to what is divided by
_STEEP = 1e15  # stands for an infinite slope: its square is still a number


@dataclass(kw_only=True)
class APGD:
    """APGD (Croce and Hein 2020, arXiv 2003.01690, Algorithm 1); in L1 that of Croce and Hein 2021 (arXiv 2103.01208).

    From the same random numbers it goes through the points that pyautoattack's goes through, and breaks the same
    examples. There, every example takes all steps; here, examples leave once they are broken. Who may leave is asked at
    checkpoints, where step sizes are halved, and after 1, 2, 4, ... steps; between, the host doesn't wait for a GPU.

    Attributes:
        module: Maps images (n, C, H, W) in [0, 1] to logits (n, K).
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        eps: Radius.
        n_iter: Steps from each start, or towards each target.
        loss: ``"ce"``, ``"dlr"``, or ``"dlr-targeted"``, which aims at one class after another.
        n_restarts: Random starts, one after another, where the loss isn't targeted.
        n_target_classes: Targets, one after another, where it is.
        order: Returns the targets; the classes with the largest logits come first, if absent.
        seed: Of the random starts.
        micro_batch_size: Examples whose gradients are computed at once; None for all.
    """

    module: Callable[[Tensor], Tensor]
    norm: Norm
    eps: float
    n_iter: int = 100
    loss: Loss = "ce"
    n_restarts: int = 1
    n_target_classes: int = 9
    order: Order | None = None
    seed: int = 0
    micro_batch_size: int | None = None

    @torch.no_grad()
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Attack from start to start, or from target to target, those examples that have withstood so far.

        Args:
            x: (n, C, H, W) images in [0, 1].
            y: (n,) labels.

        Returns:
            (n, C, H, W): misclassified points, and x where there is none, or where x is misclassified itself.
        """
        found, logits = x.clone(), self.module(x)
        torch.manual_seed(self.seed)
        (left,) = (logits.argmax(1) == y).nonzero(as_tuple=True)  # the host waits
        targeted = self.loss == "dlr-targeted"
        if targeted and len(left) > 0:
            likeliest = logits.sort(dim=1).indices.flip(1)[left, 1:]
            targets = likeliest if self.order is None else self.order(x[left], y[left])
        for turn in range(self.n_target_classes if targeted else self.n_restarts):
            if len(left) == 0:
                break
            broken, points = self._run(x[left], y[left], targets[:, turn] if targeted else y[left])
            found[left[broken]] = points[broken]
            left = left[~broken]
            if targeted:
                targets = targets[~broken]
        return found

    def _run(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Search from one start; return who is broken (n,), and points (n, C, H, W), of those broken misclassified."""
        if self.norm != "L1":
            start = x + self.eps * self._direction(x)
            broken, found, _ = self._search(x, y, target, start, self.eps, self.n_iter)
            return broken, found
        at_larger = math.ceil(_LARGER_STEPS * self.n_iter)
        point = x + torch.randn_like(x)
        point = point + _back_to_l1(x, point - x, _LARGER[0] * self.eps)
        for factor in _LARGER:  # who is misclassified here, outside of the ball, isn't broken
            *_, point = self._search(x, y, target, self._within(x, point, factor), factor * self.eps, at_larger, False)
        left = self.n_iter - len(_LARGER) * at_larger
        broken, found, _ = self._search(x, y, target, self._within(x, point, 1.0), self.eps, left)
        return broken, found

    def _direction(self, x: Tensor) -> Tensor:
        """Draw a random direction for each example, of length 1."""
        if self.norm == "Linf":
            drawn = 2 * torch.rand(x.shape).to(x.device) - 1
            return drawn / per_example(drawn.flatten(1).abs().amax(1) + _TINY, x)
        drawn = torch.randn(x.shape).to(x.device)
        return drawn / per_example(_length(drawn) + _TINY, x)

    def _within(self, x: Tensor, point: Tensor, factor: float) -> Tensor:
        torch.randn(x.shape)  # pyautoattack draws here without need: without it, later starts would be others
        return point + _back_to_l1(x, point - x, factor * self.eps)

    def _search(
        self, x: Tensor, y: Tensor, target: Tensor, start: Tensor, eps: float, n_iter: int, leave: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ascend the loss from a start (Algorithm 1).

        Returns:
            Who is broken (n,), the points (n, C, H, W) where they are, and those where the loss is largest, unless
            examples leave.
        """
        broken, found = torch.zeros_like(y, dtype=torch.bool), x.clone()
        examples = _Examples.at(start.clamp(0.0, 1.0), x, y, target, eps, self.norm)
        step_of = {"Linf": _step_linf, "L2": _step_l2}.get(self.norm, _step_l1)
        window, fewer, fewest = (max(int(share * self.n_iter), 1) for share in _CHECKPOINTS)
        if self.norm == "L1":
            window, fewer = max(int(_L1_CHECKPOINTS * n_iter), 1), 0
            fewest = window
        checkpoint = window
        for step in range(n_iter + 1):
            examples.note(step, *self._ask(examples, slope=step < n_iter))
            asked = step & (step - 1) == 0 or step in (checkpoint, n_iter)
            if leave and asked:
                gone = examples.broken
                (stay,) = (~gone).nonzero(as_tuple=True)  # the host waits
                if len(stay) < len(gone):
                    broken[examples.rows[gone]], found[examples.rows[gone]] = True, examples.found[gone]
                    examples = examples.of(stay)
                if len(examples.rows) == 0:
                    break
            if step == n_iter:
                break
            if step == checkpoint:
                if self.norm == "L1":
                    examples.adapt_sparsity(eps)
                else:
                    examples.halve_steps(_RHO * window)
                window = max(window - fewer, fewest)
                checkpoint += window
            moved = step_of(examples, eps, _MOMENTUM if step > 0 else 0.0)
            examples.before, examples.point = examples.point, moved
        return broken, found, examples.best

    def _ask(self, examples: _Examples, *, slope: bool) -> tuple[Tensor, ...]:
        """Return who is misclassified, their losses (n,), and, if asked for, the gradients at their points."""
        ask = partial(self._asked, slope=slope)
        return in_passes(ask, self.micro_batch_size, examples.point, examples.y, examples.target)

    def _asked(self, x: Tensor, y: Tensor, target: Tensor, *, slope: bool) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(slope):
            x = x.detach().requires_grad_(slope)
            logits = self.module(x)
            loss = _LOSSES[self.loss](logits, y, target)
            wrong = logits.argmax(1) != y
            if not slope:
                return wrong, loss
            gradient = input_gradient(loss.sum(), x)
        return wrong, loss.detach(), gradient.nan_to_num(0.0, _STEEP, -_STEEP).contiguous()


@dataclass
class _Examples:
    """What is known of the examples that are searched for: a row of each tensor is about one example.

    Attributes:
        rows: Which examples they are, of those that the search began with.
        x: Images.
        low: Least values in ball and box, in Linf; else in the box.
        high: Largest values, likewise.
        y: Labels.
        target: Target classes.
        point: Current points.
        before: The points before.
        gradient: At the current points.
        loss: At the current points; 0 at the start.
        rises: Steps since the last checkpoint that raised the loss.
        best: Points with the largest loss so far.
        best_gradient: There.
        best_loss: There.
        length: Of a step.
        halved: Whether the length was halved at the last checkpoint.
        loss_then: The largest loss at the last checkpoint.
        changed: In L1, how many pixels the best points at the last checkpoint changed.
        broken: Whether a point was misclassified.
        found: The last that was.
    """

    rows: Tensor
    x: Tensor
    low: Tensor
    high: Tensor
    y: Tensor
    target: Tensor
    point: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    rises: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    length: Tensor
    halved: Tensor
    loss_then: Tensor
    changed: Tensor
    broken: Tensor
    found: Tensor

    @classmethod
    def at(cls, point: Tensor, x: Tensor, y: Tensor, target: Tensor, eps: float, norm: Norm) -> _Examples:
        """Return examples at points that nothing is known of yet."""
        zeros, in_ball, one = x.new_zeros(len(x)), norm == "Linf", per_example(x.new_ones(len(x)), x)
        never = zeros.bool()
        return cls(
            rows=torch.arange(len(x), device=x.device),
            x=x,
            low=(x - eps).clamp_(min=0.0) if in_ball else 0 * one,
            high=(x + eps).clamp_(max=1.0) if in_ball else one,
            y=y,
            target=target,
            point=point,
            before=point,
            gradient=point,
            loss=zeros,
            rises=zeros,
            best=point,
            best_gradient=zeros.new_zeros(()).expand_as(x),
            best_loss=zeros - torch.inf,
            length=torch.full_like(zeros, (1.0 if norm == "L1" else 2.0) * eps),
            halved=~never,
            loss_then=zeros,
            changed=_n_changed(point, x),
            broken=never,
            found=point,
        )

    def of(self, rows: Tensor) -> _Examples:
        """Return some of them."""
        return _Examples(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})

    def note(self, step: int, wrong: Tensor, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Take down what the network makes of the current points; after the last step, no gradient is needed."""
        self.broken = self.broken | wrong
        self.found = torch.where(per_example(wrong, self.x), self.point, self.found)
        better = loss > self.best_loss
        spread = per_example(better, self.x)
        self.best = torch.where(spread, self.point, self.best)
        self.best_loss = torch.where(better, loss, self.best_loss)
        if gradient is not None:
            self.best_gradient = torch.where(spread, gradient, self.best_gradient)
            self.gradient = gradient
        if step > 0:  # the first step counts as a rise where its loss is above 0, as in pyautoattack
            self.rises, self.loss = self.rises + (loss > self.loss), loss

    def halve_steps(self, enough: float) -> None:
        """Halve the steps of those that rise too seldom, or no more, and lead them back to their best points."""
        stuck = (self.rises <= enough) | (~self.halved & (self.loss_then >= self.best_loss))
        self.length = torch.where(stuck, self.length / 2, self.length)
        self._go_back(stuck)
        self.halved, self.loss_then, self.rises = stuck, self.best_loss, torch.zeros_like(self.rises)

    def adapt_sparsity(self, eps: float) -> None:
        """In L1: those whose best points change fewer pixels than before start anew; the others take shorter steps."""
        changed = _n_changed(self.best, self.x)
        sparser = changed / self.changed < _L1_RHO
        self.length = torch.where(sparser, eps, self.length / _L1_SHORTER).clamp_(eps / _L1_SHORTEST, eps)
        self._go_back(sparser)
        self.changed = changed

    def _go_back(self, those: Tensor) -> None:
        spread = per_example(those, self.x)
        self.point = torch.where(spread, self.best, self.point)
        self.gradient = torch.where(spread, self.best_gradient, self.gradient)


def _step_linf(s: _Examples, eps: float, momentum: float) -> Tensor:
    moved = s.gradient.sign().mul_(per_example(s.length, s.x)).add_(s.point).clamp_(s.low, s.high)
    return _with_momentum(s, moved, momentum).clamp_(s.low, s.high)


def _step_l2(s: _Examples, eps: float, momentum: float) -> Tensor:
    direction = s.gradient / per_example(_length(s.gradient) + _TINY, s.x)
    moved = _within_l2(direction.mul_(per_example(s.length, s.x)).add_(s.point), s, eps)
    return _within_l2(_with_momentum(s, moved, momentum), s, eps)


def _step_l1(s: _Examples, eps: float, momentum: float) -> Tensor:
    """Change the pixels with the largest gradients, each by the same amount; there is no momentum."""
    gradient = s.gradient.flatten(1)
    slope, n_pixels = gradient.abs(), gradient.shape[1]
    rank = ((1.0 - s.changed / n_pixels / _L1_SPARSER) * n_pixels).clamp_(0, n_pixels - 1).long().unsqueeze(1)
    signs = (gradient * (slope >= slope.sort(1).values.gather(1, rank))).sign_()
    amount = s.length.unsqueeze(1) * signs / (signs.abs().sum(1, keepdim=True) + _TINY_L1)
    change = s.point + amount.view_as(s.x) - s.x
    return s.x + change + _back_to_l1(s.x, change, eps)


def _with_momentum(s: _Examples, moved: Tensor, momentum: float) -> Tensor:
    """Return where a step that leads to ``moved`` ends, and take its memory."""
    return moved.sub_(s.point).mul_(1 - momentum).add_(s.point).add_((s.point - s.before).mul_(momentum))


def _within_l2(points: Tensor, s: _Examples, eps: float) -> Tensor:
    change = points - s.x
    length = _length(change)
    change = change.div_(per_example(length + _TINY, s.x)).mul_(per_example(length.clamp_max(eps), s.x))
    return change.add_(s.x).clamp_(s.low, s.high)


def _back_to_l1(x: Tensor, change: Tensor, eps: float) -> Tensor:
    """Return what brings x + change into the box and the L1 ball around x."""
    back: Tensor = L1_projection(x, change, eps)
    return back


def _length(change: Tensor) -> Tensor:
    """Return the Euclidean length (n,): by the square root of the sum, as pyautoattack, to the bit."""
    return change.square().flatten(1).sum(1).sqrt()


def _n_changed(points: Tensor, x: Tensor) -> Tensor:
    return (points != x).flatten(1).sum(1)
