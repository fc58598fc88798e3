"""Targeted adversaries by class: TRIX and FAIR-TAT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_classwise._core.arrays import as_array
from art_classwise.errors import InputError, check_number, check_whole
from art_classwise.threat import Uniform
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_confusion,
    as_float64,
    as_given,
    check_by_class,
    check_same_shape,
    one_hot,
)

__all__ = ["TRIX", "FairTAT", "draw_targets", "false_positive_scores"]


def draw_targets(y: Array, probabilities: Array, u: Array) -> Any:
    """Return a class other than its own for each example, drawn from probabilities.

    Args:
        y: (m,) labels.
        probabilities: (C,) of the classes, which needn't sum to 1; an example's own class is left out.
        u: (m,) numbers in (0, 1), uniformly distributed.

    Returns:
        int64 (m,), as ``y`` was given; -1 where no other class has a probability above 0.

    Raises:
        InputError: Their shapes don't fit, or they are out of range.

    Example:
        >>> draw_targets([0, 0, 1, 2], [0.5, 0.25, 0.25], [0.4, 0.6, 0.9, 0.1])
        array([1, 2, 2, 0])
    """
    given = y if isinstance(y, Tensor) else torch.from_numpy(np.array(as_array(y, "y")))
    p, uniform = (as_float64(v, name, given.device) for v, name in ((probabilities, "probabilities"), (u, "u")))
    if p.dim() != 1 or given.dim() != 1:
        shapes = f"{tuple(given.shape)} and {tuple(p.shape)}"
        raise InputError(f"Labels must have shape (m,) and probabilities (C,), but have {shapes}.")
    check_same_shape(given, uniform, "labels and the numbers drawn for them")
    check_by_class(p, "probabilities")
    labels = given.to(torch.int64)
    if not bool(((labels == given) & (labels >= 0) & (labels < len(p))).all()):
        raise InputError(f"The labels must be numbers of the classes, from 0 to {len(p) - 1}.")
    if not bool(((uniform > 0) & (uniform < 1)).all()):
        raise InputError("The numbers drawn, `u`, must lie between 0 and 1.")
    return as_given(_drawn(labels, p, uniform), y)


def _drawn(y: Tensor, p: Tensor, uniform: Tensor) -> Tensor:
    """Return what :func:`draw_targets` does, of numbers that need no check, for which a GPU would wait."""
    others = p.expand(len(y), -1).masked_fill(one_hot(y, len(p)), 0.0)
    steps = others.cumsum(1)
    drawn = uniform.to(p.dtype)[:, None] * steps[:, -1:]
    # The first class whose step lies above what was drawn; a class of probability 0 has no step of its own.
    targets = (steps > drawn).to(torch.int8).argmax(1)
    return torch.where(steps[:, -1] > 0, targets, -1)


def false_positive_scores(confusion: Array) -> Any:
    """Return how often examples of other classes are predicted as each class (Medi et al. 2024): the off-diagonal sums.

    Args:
        confusion: (C, C), rows true classes, columns predictions, shares of the true class; NaN in the row of a class
            without examples, which has no error.

    Returns:
        (C,) with sum 1, as ``confusion`` was given; all equal where there is no error.

    Raises:
        InputError: It isn't square, or has other entries than finite ones of at least 0.

    Example:
        >>> false_positive_scores([[0.5, 0.5, 0.0], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
        array([0.2, 0.5, 0.3])
    """
    matrix = as_confusion(confusion)
    sums = matrix.sum(0) - matrix.diagonal()
    total = sums.sum()
    even = torch.full_like(sums, 1 / len(sums))
    return as_given(torch.where(total > 0, sums / total.clamp_min(torch.finfo(sums.dtype).tiny), even), confusion)


@dataclass
class TRIX(ClassPolicy):
    """TRIX: targeted adversaries, which are weaker, for strong classes; untargeted ones for weak classes.

    Medi, Jung, Keuper, "TRIX: Trading Adversarial Fairness via Mixed Adversarial Training", 2025 (arXiv 2507.07768).
    The targets are drawn evenly from the other classes. The paper weighs classes and sets radii besides, as CFA does:
    :class:`Combined` joins the two. This is known from its abstract [not verified against code]. Our own choice is when
    a class is strong: if its robust accuracy in the epoch before, on validation examples if there are any, else in
    training, is at least the mean of the classes. The history's ``targeted_<k>`` are 1 for the strong ones.

    Args:
        warmup: Epochs before, with untargeted adversaries for all.

    Raises:
        InputError: It is no whole number of at least 1.
    """

    warmup: int = 1

    def _check(self) -> None:
        check_whole("warmup", self.warmup, 1)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        if context.nb_epochs <= self.warmup:
            raise InputError(
                f"TRIX begins after {self.warmup} epochs, but there are {context.nb_epochs}: train for longer, or take "
                "a smaller `warmup`."
            )
        self._state = {"strong": self._zeros(context.n_classes)}
        self._even = (context.shares > 0).to(torch.float64)

    @property
    def needs_own_attack(self) -> bool:
        """See :class:`ClassPolicy`."""
        return True

    def targets_of(self, y: Tensor, uniform: Uniform) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        targets = _drawn(y, self._even, uniform(len(y)))
        return torch.where(self._state["strong"][y] > 0, targets, -1)

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        if epoch < self.warmup:
            return
        robust = self._by_class(row, "val_robust" if "val_robust_0" in row else "robust")
        self._state["strong"] = (robust >= robust.nanmean()).to(torch.float64)

    def columns(self) -> dict[str, float]:
        """See :class:`ClassPolicy`."""
        return {f"targeted_{k}": value for k, value in enumerate(self._state["strong"].tolist())}

    def _in_force(self) -> ClassWeights:
        return ClassWeights()


@dataclass
class FairTAT(ClassPolicy):
    """FAIR-TAT: targeted adversaries for all, towards the classes that others are mistaken for.

    Medi, Jung, Keuper, "FAIR-TAT: Improving Model Fairness Using Targeted Adversarial Training", 2024 (arXiv
    2410.23142). The probability of a target is proportional to its :func:`false_positive_scores` in the epoch before,
    of the training examples under the training attack [known from the abstract and others' accounts, not verified
    against code]. In the first epoch nothing has a target. The history's ``target_<k>`` are the probabilities, NaN
    before there are any.

    Args:
        smoothing: Share of the even distribution in the probabilities, from 0 to 1, so that no class is never a target.

    Raises:
        InputError: It is out of range.
    """

    smoothing: float = 0.1

    def _check(self) -> None:
        check_number("smoothing", self.smoothing, 0, 1)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        n = context.n_classes
        self._means = ClassMeans(n, n, context.device)
        self._state = {"confusion": self._zeros(n, n) + torch.nan, "targets": self._zeros(n) + torch.nan}
        present = (context.shares > 0).to(torch.float64)
        self._even = present / present.sum()

    @property
    def needs_own_attack(self) -> bool:
        """See :class:`ClassPolicy`."""
        return True

    def targets_of(self, y: Tensor, uniform: Uniform) -> Tensor | None:
        """See :class:`ClassPolicy`: none before the first epoch has ended, where nothing is known."""
        return _drawn(y, self._state["targets"].nan_to_num(0.0), uniform(len(y)))

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        self._means.add(y, one_hot(logits_adv.argmax(1), logits_adv.shape[1]))
        return self._in_force()

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        seen, state = self._means.take(), self._state
        state["confusion"] = torch.where(seen.isnan(), state["confusion"], seen)
        confusion = state["confusion"].nan_to_num(0.0)
        mixed = (1 - self.smoothing) * false_positive_scores(confusion) + self.smoothing * self._even
        # Without an error no class is a likelier target than another, but one that isn't trained is none.
        state["targets"] = torch.where((confusion - confusion.diagonal().diag() > 0).any(), mixed, self._even)

    def columns(self) -> dict[str, float]:
        """See :class:`ClassPolicy`."""
        return {f"target_{k}": value for k, value in enumerate(self._state["targets"].tolist())}

    def _in_force(self) -> ClassWeights:
        return ClassWeights()
