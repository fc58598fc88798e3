"""Fair-ARD's class weights: by how long classes withstand the attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_classwise.errors import InputError, check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    check_by_class,
)

__all__ = ["FairARD", "fair_ard_weights"]


def fair_ard_weights(kappa: Array, power: float = 2.0, lowest: float = 5 / 6, highest: float = 5 / 2) -> Any:
    """Return class weights proportional to kappa^-power, with mean 1 before they are clipped (Yue et al. 2023, eq. 6).

    Args:
        kappa: (C,) mean number of the attack's steps that a class withstands; NaN, of a class without examples, gives 1
            and isn't counted.
        power: beta in the paper.
        lowest: Where weights are clipped, as in the released code.
        highest: Likewise.

    Returns:
        (C,) float64, as ``kappa`` was given.

    Raises:
        InputError: A number is negative or infinite, or there is none.

    Example:
        >>> fair_ard_weights([2.0, 4.0]).round(3)
        array([1.6  , 0.833])
    """
    k = as_float64(kappa, "kappa")
    check_by_class(k, "numbers of steps, `kappa`,", unknown=True)
    present = ~k.isnan()
    # Relative to the smallest, so that no power overflows.
    odds = torch.where(present, ((k + _SMALL) / (k.nan_to_num(torch.inf).amin() + _SMALL)) ** -power, 0.0)
    weights = present.sum() * odds / odds.sum().clamp_min(_SMALL)
    return as_given(torch.where(present, weights.clamp(lowest, highest), 1.0), kappa)


_SMALL = 1e-5  # as in the released code: no class that withstands no step has an infinite weight


@dataclass
class FairARD(ClassPolicy):
    """Fair-ARD's reweighting: classes that withstand fewer steps of the attack get more weight.

    Yue, Mou, Wang, Zhao, "Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness",
    NeurIPS 2023. After each epoch, kappa is the mean number of the training attack's iterates, from its start to the
    last but one, that the examples of a class withstood; both terms of the next epoch are weighted by
    :func:`fair_ard_weights`. The paper distils (``AdversarialTrainerDistillationPyTorch(..., method="fair-ard")``);
    here it goes with any objective. The released code divides a class's sum by N / C, as if classes were equally
    frequent.

    Args:
        power: How much weights differ: the paper's beta.
        lowest: The smallest weight, above 0 and at most 1.
        highest: The largest weight, at least 1.

    Raises:
        InputError: A number is out of range.
    """

    power: float = 2.0
    lowest: float = 5 / 6
    highest: float = 5 / 2
    counts_steps = True

    def _check(self) -> None:
        check_number("power", self.power, 0, 100, below=True)
        check_number("lowest", self.lowest, 0, 1, above=True)
        check_number("highest", self.highest, 1, np.inf, below=True, words="of at least 1, and finite")
        if self.lowest > self.highest:
            raise InputError(f"`lowest` is {self.lowest:g}, above `highest`, which is {self.highest:g}: swap them.")

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._means = ClassMeans(context.n_classes, 1, context.device)
        self._state = {"weights": self._ones(), "kappa": self._zeros(context.n_classes) + torch.nan}

    def see_steps(self, y: Tensor, n_withstood: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        self._means.add(y, n_withstood[:, None])

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        seen, state = self._means.take()[:, 0], self._state
        state["kappa"] = torch.where(seen.isnan(), state["kappa"], seen)
        state["weights"] = fair_ard_weights(state["kappa"], self.power, self.lowest, self.highest)

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["weights"], self._state["weights"])
