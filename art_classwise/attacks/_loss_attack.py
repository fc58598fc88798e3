"""Attacks that are a search on a loss of the labels: of which a subclass names the loss."""

from __future__ import annotations

import abc
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.progress import progress
from art_classwise._core.state import preserved
from art_classwise.attacks._base import SearchAttack
from art_classwise.attacks._problem import Problem, warn_of_zero_gradients
from art_classwise.attacks.search import Solved
from art_classwise.errors import InputError
from art_classwise.threat import per_example

__all__ = ["LossAttack"]

_TINY = float(np.finfo(np.float32).tiny)


class LossAttack(SearchAttack):
    """One search per restart, ascending a loss of the labels, which a subclass names."""

    @abc.abstractmethod
    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what an untargeted search ascends, (n,)."""

    def _compared(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        """Return what the loss compares logits with, (n, ...): the labels, unless a subclass says otherwise."""
        return y

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return adversarial examples: the last iterate, or of several restarts the most wrong one.

        With ``early_stop`` the first iterate that succeeds, x itself before all.

        Args:
            x: (n, ...) examples within the estimator's ``clip_values``.
            y: True labels, or target labels if ``targeted``: indices (n,) or one-hot (n, C). If absent, an
                untargeted attack moves away from the model's own predictions.
            **kwargs: ``mask``, broadcastable to x: where it is 0 an example stays as it is.
                ``example_ids``, (n,) ints: numbers of the examples in a larger set, for their random starts.

        Returns:
            float32, of the shape of x.

        Raises:
            InputError: Labels are missing for a targeted attack, or out of range, or of another length; x is
                empty, not finite or outside ``clip_values``; the mask or a budget doesn't broadcast; or the model
                doesn't return finite logits (n, C).
        """
        problem = self._problem(x, y, kwargs)
        if problem.labels is None and self.targeted:
            raise InputError("A targeted attack needs the target labels: generate(x, y).")
        found = np.empty_like(problem.images)
        self.zero_gradient = np.zeros(len(found), dtype=bool)
        begins = range(0, len(found), self.batch_size)
        with preserved(self.estimator.model):  # ART's summary writer changes its mode
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = np.arange(begin, min(begin + self.batch_size, len(found)))
                batch = problem.on_device(rows)
                x_adv, zero = self._attack(problem, rows, batch, problem.label(rows, batch))
                found[rows], self.zero_gradient[rows] = x_adv.cpu().numpy(), zero.cpu().numpy()
        if self.summary_writer is not None:
            self.summary_writer.reset()
        warn_of_zero_gradients(self.zero_gradient)
        return found

    def _attack(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Attack rows of the images, x (m, ...), away from y or towards it; return points, and zero gradients (m,)."""

        def ascended(logits: Tensor, compared: Tensor) -> Tensor:
            loss = self._loss(art_interface.check_logits(logits, len(compared), problem.n_classes), compared)
            return -loss if self.targeted else loss

        def solves(logits: Tensor, these: Tensor) -> Tensor:
            hit = logits.argmax(1) == y[these]
            return hit if self.targeted else ~hit

        def wrongness(logits: Tensor, these: Tensor) -> Tensor:
            """Return what restarts compete for: above 0 if and only if the attack succeeded."""
            margin = losses.margin(logits, y[these]) * (-1 if self.targeted else 1)
            # Equal logits make a margin of 0, whichever of them the prediction is.
            return torch.where(solves(logits, these), margin.clamp_min(_TINY), margin)

        left, compared = torch.arange(len(x), device=x.device), self._compared(problem, x, y)
        best, value = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        restarts = max(1, self.num_random_init)
        solved = zero.clone()
        if self.early_stop:
            # What is wrong already stays as it is; a fast network says whose turn it is to be looked at exactly.
            claimed = left
            if problem.fast is not problem.exact:
                (claimed,) = solves(problem.quick_logits(x), left).nonzero(as_tuple=True)
            solved[claimed] = solves(self._exact(problem, rows, x, claimed), claimed)
        for restart in range(restarts):
            if self.early_stop:
                (left,) = (~solved).nonzero(as_tuple=True)  # the host waits, once per restart, to attack no others
                if len(left) == 0:
                    break
            found = self._search(
                problem,
                rows[left.cpu().numpy()] if self.early_stop else rows,
                x[left],
                y[left],
                compared[left],
                ascended,
                solved=partial(_among, solves, left),
                early_stop=self.early_stop,
                judge=restarts > 1,
                restart=restart,
            )
            zero[left] |= found.zero_gradient
            if found.logits is None:
                best[left] = found.x_adv
                break
            new = wrongness(found.logits, left)
            better = new > value[left]
            best[left] = torch.where(per_example(better, x), found.x_adv, best[left])
            value[left] = torch.where(better, new, value[left])
            solved[left] = new > 0
        return best, zero


def _among(solves: Solved, left: Tensor, logits: Tensor, these: Tensor) -> Tensor:
    """Ask for rows counted among those left."""
    return solves(logits, left[these])
