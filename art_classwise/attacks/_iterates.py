"""What a search carries along for each example, and the step that it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from art_classwise.threat import ThreatModel, is_asked_freely, per_example

__all__ = ["Iterates", "Seen", "Steps", "is_degenerate", "not_finite"]

_TINY = torch.finfo(torch.float32).tiny


@dataclass
class Iterates:
    """Examples that are searched for, where they are, and all that belongs to each: (m, ...) tensors, or nothing.

    Attributes:
        rows: (m,) their numbers, in ascending order.
        x: The examples.
        y: What the loss compares logits with.
        x_adv: Where they are.
        stopped: (m,) bool, whose attack has succeeded.
        zero_gradient: (m,) bool: see :class:`art_classwise.attacks.search.SearchResult`.
        no_logits: (m,) bool, likewise.
        length: Of a step, unless one number is all examples'.
        radius: Unless the threat model's is all examples'.
        changes: float, 1 where an example may be changed and 0 where not; not for Linf.
        lower: For Linf, where ball and box end.
        upper: Likewise.
        coordinates: For L1, how many coordinates a step changes.
        velocity: The sum of past gradients.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    x_adv: Tensor
    stopped: Tensor
    zero_gradient: Tensor
    no_logits: Tensor
    length: Tensor | None = None
    radius: Tensor | None = None
    changes: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    coordinates: Tensor | None = None
    velocity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, these: Tensor) -> Iterates:
        """Return some of the examples (k,)."""
        return self._each(lambda t, _: t[these])

    def beside(self, others: Iterates) -> Iterates:
        """Return these examples and others."""
        return self._each(lambda t, name: torch.cat([t, getattr(others, name)]))

    def _each(self, change: Callable[[Tensor, str], Tensor]) -> Iterates:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(t, name) for name, t in held.items() if t is not None})


@dataclass(frozen=True)
class Steps:
    """The steps of a search within ball and box.

    Attributes:
        threat: Norm and radius.
        length: Of a step, of examples that have none of their own.
        low: Lower bound of the box.
        high: Upper bound of the box.
        momentum: How much of the past steps' gradients is kept.
    """

    threat: ThreatModel
    length: float
    low: Tensor
    high: Tensor
    momentum: float = 0.0

    def first(
        self,
        rows: Tensor,
        x: Tensor,
        y: Tensor,
        start: Tensor | None,
        length: Tensor | None,
        radius: Tensor | None,
        mask: Tensor | None,
    ) -> Iterates:
        """Return examples x (m, ...) before the first step; ``start`` is brought into ball and box."""
        threat, box = self.threat, (self.low, self.high)
        x_adv = x if start is None else threat.project(start, x, *box, radius)
        held = None if mask is None else mask == 0
        if held is not None:
            x_adv = torch.where(held, x, x_adv)
        stopped, zero_gradient, no_logits = torch.zeros(3, len(x), dtype=torch.bool, device=x.device)
        made = Iterates(rows, x, y, x_adv, stopped, zero_gradient, no_logits, length=length)
        if self.momentum:
            made.velocity = torch.zeros_like(x)
        if threat.norm == "Linf":
            made.lower, made.upper = threat.bounds(x, *box, radius)
            if held is not None:  # one point, where nothing moves
                only = threat.project(x, x, *box, radius)
                made.lower, made.upper = (torch.where(held, only, side) for side in (made.lower, made.upper))
        else:
            made.radius, made.changes = radius, None if held is None else (~held).to(x.dtype)
        if threat.norm == "L1":
            made.coordinates = _coordinates(threat, x, radius, *box)
        return made

    def after(self, at: Iterates, gradient: Tensor, size: Tensor, largest: Tensor) -> Tensor:
        """Return new points, one step along gradients (m, ...); what isn't finite of these is no way to go.

        Args:
            at: Where the examples are; their velocity is updated.
            gradient: (m, ...), which others may hold.
            size: Its absolute values; they are written over.
            largest: (m,) the largest of each example's.
        """
        length, known = self.length if at.length is None else at.length, True
        if not is_asked_freely(gradient.device) or not math.isfinite(float(largest.sum())):
            gradient, known = gradient.nan_to_num(0.0, 0.0, 0.0), False
            size = size if at.velocity is None else gradient.abs()
        if at.velocity is not None:
            gradient = gradient / per_example(size.flatten(1).sum(1).clamp_min(_TINY), gradient)
            gradient, known = at.velocity.mul_(self.momentum).add_(gradient), False
        if at.lower is not None:
            direction = self.threat.steepest(gradient, out=size)
            if isinstance(length, Tensor):
                moved = torch.addcmul(at.x_adv, direction, length)  # a product with 1 or -1 is exact
            else:
                moved = torch.add(at.x_adv, direction, alpha=length)
            return moved.sub_(at.x).add_(at.x).clamp_(at.lower, at.upper)  # rounded as the sum of x and a change
        if at.changes is not None:
            gradient, known = gradient * at.changes, False
        if at.coordinates is not None:  # else the few of a step are spent where the box ends
            gradient = gradient * self._inward(at.x_adv, gradient)
        direction = self.threat.steepest(gradient, at.coordinates, largest=largest if known else None, out=size)
        moved = at.x_adv + direction.mul_(length)  # laid out as the points, not as a gradient that may be channels last
        return self.threat.project(moved, at.x, self.low, self.high, at.radius, out=moved)

    def _inward(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        """Return 0 where a step would leave the box, and 1 elsewhere: as floats, since bool takes a CPU longer."""
        inward, way = torch.empty_like(x_adv), torch.empty_like(x_adv)
        torch.gt(x_adv, self.low, out=inward)
        torch.ge(gradient, 0, out=way)
        torch.maximum(inward, way, out=inward)
        torch.lt(x_adv, self.high, out=way)
        beside = torch.le(gradient, 0, out=torch.empty_like(x_adv))
        return inward.mul_(torch.maximum(way, beside, out=way))


class Seen:
    """What was seen of the same examples at some steps, to be evaluated together.

    Args:
        n_excluded: Number of classes that were taken out, whose logits are minus infinity.
    """

    def __init__(self, n_excluded: int) -> None:
        self._n_excluded = n_excluded
        self._logits: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._done: list[Tensor] = []

    def add(self, logits: Tensor, largest: Tensor, done: Tensor | None) -> None:
        """Note the logits (m, C), the largest size of each gradient's entries (m,), and who is done (m,)."""
        left_out = self._n_excluded
        self._logits.append(
            torch.where(not_finite(logits, left_out), torch.inf, 0.0) if left_out else logits.abs().amax(1)
        )
        self._gradients.append(largest)
        if done is not None:
            self._done.append(done)
        if len(self._gradients) == _AT_MOST:  # of a million steps, not all are kept
            self._logits = [torch.stack(self._logits).amax(0)]
            wrong = self._degenerate()
            # One step that stands for all: 0 where one was degenerate.
            self._gradients = [torch.where(wrong, 0.0, 1.0)]
            self._done = [torch.zeros_like(wrong)] if self._done else []

    def tell(self, of: Iterates) -> None:
        """Write the findings into the examples'."""
        if self._gradients:
            of.no_logits = of.no_logits | ~(torch.stack(self._logits).amax(0) < torch.inf)
            of.zero_gradient = of.zero_gradient | self._degenerate()
        self._logits, self._gradients, self._done = [], [], []

    def _degenerate(self) -> Tensor:
        wrong = _no_way(torch.stack(self._gradients))
        return (wrong & ~torch.stack(self._done) if self._done else wrong).any(0)


_AT_MOST = 64


def is_degenerate(gradient: Tensor) -> Tensor:
    """Return which gradients (m, ...) are all zero or not finite (m,)."""
    return _no_way(gradient.flatten(1).abs().amax(1))


def _no_way(largest: Tensor) -> Tensor:
    return ~((largest > 0) & (largest < torch.inf))


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
