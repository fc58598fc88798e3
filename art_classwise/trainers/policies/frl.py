"""FRL: fair robust learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise.errors import InputError, check_number
from art_classwise.threat import ThreatModel
from art_classwise.trainers.policies.policy import (
    Array,
    ClassBudgets,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    check_same_shape,
    sum_by_class,
)

__all__ = ["FRL", "frl_budgets", "frl_multipliers", "frl_weights"]

_LARGEST = 3.0


def frl_multipliers(
    phi: Array, errors: Array, error: float, tolerance: float, rate: float, limit: float | None = None
) -> Any:
    """Return a Lagrange multiplier of each class after a step: phi + rate (R(c) - R - tau) (Xu et al. 2021, eq. 8).

    Args:
        phi: (C,) the multipliers.
        errors: (C,) class errors, R(c); NaN, of a class without examples, leaves its multiplier.
        error: Error over all examples, R.
        tolerance: How much larger a class's error may be, tau.
        rate: Length of the step.
        limit: If given, multipliers stay at 0 or above, and their sum at this or below.

    Returns:
        (C,), as ``phi`` was given.

    Raises:
        InputError: They aren't of one shape.

    Example:
        >>> frl_multipliers([0.0, 0.0], [0.6, 0.2], 0.4, tolerance=0.05, rate=0.1, limit=0.5).round(3)
        array([0.015, 0.   ])
    """
    before = as_float64(phi, "phi")
    of_classes = as_float64(errors, "errors", before.device)
    check_same_shape(before, of_classes, "multipliers and errors")
    violation = of_classes - error - tolerance
    after = before + rate * violation.nan_to_num(0.0)
    if limit is not None:
        after = after.clamp_min(0)
        after = after * (limit / after.sum().clamp_min(limit))
    return as_given(after, phi)


def frl_weights(phi: Array) -> Any:
    """Return class weights with mean 1: 1 + C (phi - mean phi) (Xu et al. 2021, section 4.1, as released).

    Args:
        phi: (C,) multipliers; NaN, of a class that takes no part, gives 1 and isn't counted.

    Returns:
        (C,), as ``phi`` was given. The released code has them divided by C, and divides the loss by their sum.

    Example:
        >>> frl_weights([0.1, 0.0])
        array([1.1, 0.9])
    """
    values = as_float64(phi, "phi")
    shifted = (~values.isnan()).sum() * (values - values.nanmean())
    return as_given(1 + shifted.nan_to_num(0.0), phi)


def frl_budgets(phi: Array) -> Any:
    """Return class budgets relative to eps: exp(2 phi), from 0.98 to 3 (Xu et al. 2021, section 4.2, as released).

    Example:
        >>> frl_budgets([-1.0, 0.1, 9.0]).round(3)
        array([0.98 , 1.221, 3.   ])
    """
    return as_given((2 * as_float64(phi, "phi")).exp().clamp(0.98, _LARGEST), phi)


@dataclass
class FRL(ClassPolicy):
    """FRL: classes whose natural or boundary error exceeds the average's get more weight and larger radii.

    Xu, Liu, Li, Jain, Tang, "To be Robust or to be Fair: Towards Fairness in Adversarial Training", ICML 2021 (arXiv
    2010.06121). After each epoch, on validation data: R_nat = 1 - clean accuracy, R_bndy = clean - robust accuracy;
    :func:`frl_multipliers` with rate alpha1 for R_nat and 2 alpha1 for R_bndy; their :func:`frl_weights` weigh the
    first and the second term (of an objective with one term, their mean does); :func:`frl_budgets` set the radii.
    Steps are as much longer as the largest radius in the batch is, so that it is reached as before. It fine-tunes a
    robust network: theirs with learning rate 1e-3, 40 epochs, beta 1.5.

    The released code trains by TRADES, ``passes="cac"``; its run of both parts has alpha2 .2 and tolerance .07; it
    halves alpha1 at epoch 40, and validates by PGD of 20 steps, where here the trainer's number is taken. It measures
    before each epoch, here it is after it, so that the first one is unweighted.

    Args:
        alpha1: Rate of the weights' multipliers.
        alpha2: Rate of the radii's; 0 leaves the radii (FRL Reweight).
        tolerance: How much larger a class's error may be than the average's: tau, 0.05 or 0.07 in the paper.
        limit: Largest sum of the weights' multipliers, above 0 and at most 1, where a class's weight may become 0.
        normalize: Divide each term of a batch by its mean weight there, as the released code does.

    Raises:
        InputError: A number is out of range.
    """

    alpha1: float = 0.05
    alpha2: float = 0.1
    tolerance: float = 0.05
    limit: float = 0.5
    normalize: bool = False
    needs_validation = True
    _added: ClassVar[Mapping[str, Any]] = {"normalize": False}

    def _check(self) -> None:
        check_number("alpha1", self.alpha1, 0, 100)
        check_number("alpha2", self.alpha2, 0, 100)
        check_number("tolerance", self.tolerance, 0, 1)
        check_number("limit", self.limit, 0, 1, above=True)
        if not isinstance(self.normalize, bool):
            raise InputError(f"`normalize` must be True or False, but got {self.normalize!r}.")

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """See :class:`ClassPolicy`."""
        if self.alpha2 and threat.norm == "Linf" and _LARGEST * threat.eps > width:
            raise InputError(
                f"FRL would let class budgets grow to {_LARGEST * threat.eps:g}, beyond the range of images, "
                f"{width:g}: take a smaller radius, or alpha2=0, which leaves the radii."
            )

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._state = {name: self._zeros(context.n_classes) for name in ("natural", "boundary", "margin")}

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return self.alpha2 > 0

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        if not self.alpha2:
            return None
        radii: Tensor = frl_budgets(self._state["margin"])
        return ClassBudgets(radii, radii.amax().expand_as(radii))

    def budgets_of(self, y: Tensor) -> ClassBudgets | None:
        """See :class:`ClassPolicy`: the steps are those for the largest radius in the batch, of all processes."""
        budgets = self.class_budgets
        if budgets is None:
            return None
        radii = budgets.radii[y]
        return ClassBudgets(radii, distributed.largest(radii.amax()).expand_as(radii))

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        weights = self._in_force()
        if not self.normalize:
            return weights
        counts = distributed.sum_(sum_by_class(y, torch.ones_like(y)[:, None], self._context.n_classes)[:, 0])
        return ClassWeights(*(None if w is None else w * (counts.sum() / (counts @ w)) for w in weights))

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        clean, robust = self._by_class(row, "val_clean"), self._by_class(row, "val_robust")
        boundary, state, tau = row["val_clean"] - row["val_robust"], self._state, self.tolerance
        state["natural"] = frl_multipliers(
            state["natural"], 1 - clean, 1 - row["val_clean"], tau, self.alpha1, self.limit
        )
        state["boundary"] = frl_multipliers(
            state["boundary"], clean - robust, boundary, tau, 2 * self.alpha1, self.limit
        )
        state["margin"] = frl_multipliers(state["margin"], clean - robust, boundary, tau, self.alpha2)

    def _in_force(self) -> ClassWeights:
        present = self._context.shares > 0
        natural, boundary = (
            frl_weights(torch.where(present, self._state[name], torch.nan)) for name in ("natural", "boundary")
        )
        if self._context.beta is None:
            return ClassWeights((natural + boundary) / 2, None)
        return ClassWeights(natural, boundary)
