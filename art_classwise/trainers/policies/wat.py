"""WAT: worst-class adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise.errors import check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
)

__all__ = ["WAT", "wat_weights"]


def wat_weights(cumulated: Array, eta: float = 0.1) -> Any:
    """Return WAT's weights of the C classes and of the average: C softmax(eta L) (Li and Liu 2023, algorithm 1).

    Args:
        cumulated: (C + 1,) validation losses summed over epochs, the last one that of all classes; NaN for a class
            without examples.
        eta: Rate of the Hedge algorithm.

    Returns:
        (C + 1,), as ``cumulated`` was given; 0 for NaN, which C doesn't count either.

    Example:
        >>> wat_weights([1.0, 1.0, 1.0]).round(3)
        array([0.667, 0.667, 0.667])
    """
    losses = as_float64(cumulated, "cumulated")
    weights = (eta * losses).nan_to_num(-torch.inf).softmax(0)
    return as_given(((~losses.isnan()).sum() - 1) * weights, cumulated)


@dataclass
class WAT(ClassPolicy):
    """WAT: the Hedge algorithm over the classes and their average, by losses on validation data.

    Li and Liu, "WAT: Improve the Worst-Class Robustness in Adversarial Training", AAAI 2023 (arXiv 2302.04025). After
    each epoch the objective's mean validation loss of each class, and their mean, are added up; :func:`wat_weights`
    of the sums weigh the next epoch. An example's weight is that of its class plus that of the average, as in the
    released code: 1 + 1 in the first epoch; equal sums make it 2 C / (C + 1). Both act on the learning rate. The
    validation attack is PGD on cross-entropy, with the trainer's radius and steps; in the released code it is TRADES'.
    That code divides a class's summed loss by N / C, as if classes were equally frequent, and trains a ResNet-18 by
    TRADES, ``passes="ca"``, for 100 epochs with weight decay 2e-4 and decays of the learning rate at 75, 90 and 100.

    Args:
        eta: Rate of the Hedge algorithm.

    Raises:
        InputError: It is out of range.
    """

    eta: float = 0.1
    needs_validation = True

    def _check(self) -> None:
        check_number("eta", self.eta, 0, 1000)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._means = ClassMeans(context.n_classes, 1, context.device)
        self._state = {
            "cumulated": self._zeros(context.n_classes + 1),
            "last": self._zeros(context.n_classes) + torch.nan,
            "weights": 2 * self._ones(),
        }

    def see_validation(self, y: Tensor, values: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        self._means.add(y, values[:, None])

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        seen, state = self._means.take()[:, 0], self._state
        state["last"] = torch.where(seen.isnan(), state["last"], seen)
        state["cumulated"] += torch.cat([state["last"], state["last"].nanmean()[None]])
        weights = wat_weights(state["cumulated"], self.eta)
        state["weights"] = weights[:-1] + weights[-1]

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["weights"], self._state["weights"])
