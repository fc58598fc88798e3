"""A batch of examples that are searched for towards several classes."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise.attacks._checks import check_finite
from art_classwise.attacks._problem import Found, Problem
from art_classwise.attacks._targets import Targets, allowed_targets
from art_classwise.attacks.search import not_finite

__all__ = ["TargetQueue", "column"]


class TargetQueue:
    """A batch of examples, and what has been found for them so far.

    Attributes:
        rows: (m,) of the problem's images.
        x: (m, ...) these.
        y: (m,) their labels.
        allowed: (m, C) bool, where they may be moved.
        reached: (m, C) bool, where they have been moved.
        best: (m, ...) the points that come nearest to a target.
        zero_gradient: (m,) bool.
    """

    def __init__(self, problem: Problem, rows: npt.NDArray[np.intp], targets: Targets, excluded: Sequence[int]) -> None:
        self.rows = rows
        self.x = problem.on_device(rows)
        self.clean = problem.logits(self.x)
        self._targets, self._ids, self._n_excluded = targets, problem.ids[rows], problem.n_excluded
        self.y = self.clean.argmax(1) if problem.labels is None else problem.on_device(rows, problem.labels)
        self.allowed = allowed_targets(self.y, problem.n_classes, targets, excluded)
        self.reached = torch.zeros_like(self.allowed)
        self.best = self.x.clone()
        self.zero_gradient = torch.zeros_like(self.y, dtype=torch.bool)
        self._nearness = torch.full_like(self.y, -torch.inf, dtype=torch.float32)
        self.add(torch.arange(len(rows), device=self.y.device), Found(self.x, self.zero_gradient, self.clean))

    def jobs(self, batch_size: int, *, every_target: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches of (examples, targets) still to be searched for, nearest targets first.

        Args:
            batch_size: Pairs per batch.
            every_target: Whether an example goes on with its other targets once it has reached one.
        """
        count = int(self.allowed.sum(1).max())
        count = min(count, int(self._targets)) if isinstance(self._targets, numbers.Integral) else count
        ranked = self.clean.masked_fill(~self.allowed, -torch.inf).topk(count, dim=1).indices
        real = self.allowed.gather(1, ranked).T.cpu().numpy()
        examples = np.broadcast_to(np.arange(len(self.rows)), real.shape)[real]
        classes = ranked.T.cpu().numpy()[real]
        at = 0
        while at < len(examples):
            reached = self.reached.cpu().numpy()  # the host waits, once per batch: who is done makes room for others
            done = reached[examples, classes] if every_target else reached[examples].any(axis=1)
            chosen = at + np.flatnonzero(~done[at:])[:batch_size]
            if len(chosen) == 0:
                return
            at = int(chosen[-1]) + 1
            device = self.y.device
            yield torch.from_numpy(examples[chosen]).to(device), torch.from_numpy(classes[chosen]).to(device)

    def add(self, examples: Tensor, found: Found) -> None:
        """Take note of points found for examples (k,), one of them perhaps several times."""
        assert found.logits is not None
        check_finite(not_finite(found.logits, self._n_excluded), self._ids[examples.cpu().numpy()])
        allowed, prediction = self.allowed[examples], found.logits.argmax(1)
        hit, was_reached = column(allowed, prediction), self.reached.any(1)
        self.zero_gradient[examples[found.zero_gradient]] = True
        towards = found.logits.masked_fill(~allowed, -torch.inf).amax(1)
        nearness = towards - found.logits.masked_fill(allowed, -torch.inf).amax(1)
        # The first that reached a target stands, in the order of the jobs, whatever the batches they came in.
        order = torch.arange(len(examples), device=examples.device)
        rank = torch.where(hit, torch.inf, nearness)
        nearest = self._nearness.scatter_reduce(0, examples, rank, "amax")
        level = (rank == nearest[examples]) & (rank > self._nearness[examples]) & ~was_reached[examples]
        late = torch.full_like(self.y, len(examples))
        first = late.scatter_reduce(0, examples, torch.where(level, order, len(examples)), "amin")
        chosen = level & (order == first[examples])
        self.best[examples[chosen]] = found.x_adv[chosen]
        self._nearness = nearest
        self.reached[examples[hit], prediction[hit]] = True


def column(values: Tensor, columns: Tensor) -> Tensor:
    """Return of each row (m, C) the value in its column (m,)."""
    return values.gather(1, columns[:, None])[:, 0]
