"""Balanced softmax: logits shifted by how frequent classes are, for data with a long tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise.errors import InputError, check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    check_by_class,
)

__all__ = ["BalancedSoftmax", "balanced_adjustment"]


def balanced_adjustment(shares: Array, tau: float = 1.0) -> Any:
    """Return what balanced softmax adds to the logits, tau log of the classes' frequencies (Ren et al. 2020, eq. 4).

    Args:
        shares: (C,) frequencies of the classes, or numbers of examples; a factor common to all doesn't matter.
        tau: How much of it.

    Returns:
        (C,) float64, at most 0, as ``shares`` were given; a class without examples has what one of a millionth of the
        rarest class's examples would have.

    Raises:
        InputError: There are no examples, or a number is negative or not finite, or ``tau`` is above 100.

    Example:
        >>> balanced_adjustment([100, 10, 1]).round(3)
        array([ 0.   , -2.303, -4.605])
    """
    n = as_float64(shares, "shares")
    check_by_class(n, "classes' shares")
    if not bool(n.amax() > 0):
        raise InputError("The classes' shares must be numbers of at least 0, one of them above 0, but all are 0.")
    check_number("tau", tau, 0, 100)
    rarest = torch.where(n > 0, n, torch.inf).amin()
    return as_given(tau * (torch.where(n > 0, n, 1e-6 * rarest) / n.amax()).log(), shares)


@dataclass
class BalancedSoftmax(ClassPolicy):
    """Balanced softmax: the first term sees logits plus the logarithm of the classes' frequencies.

    Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020 (arXiv 2007.10740), and for
    adversarial training Yue, Mou, Wang, Zhao, "Revisiting Adversarial Training under Long-Tailed Distributions", CVPR
    2024 (AT-BSL), whose objective this is on standard adversarial training. To be learnt, a rare class's logit must
    outweigh the shift, which isn't there in prediction. The attack ascends its loss without the shift, as in the
    released code, whose start is x + 0.001 N(0, 1). Where classes are equally frequent nothing changes.

    Args:
        tau: How much is added, relative to the logarithm; more than 1 favours rare classes (Menon et al. 2021).

    Raises:
        InputError: It is out of range.
    """

    tau: float = 1.0

    def _check(self) -> None:
        check_number("tau", self.tau, 0, 100)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._adjustment: Tensor = balanced_adjustment(context.shares, self.tau).to(context.device)

    @property
    def logit_adjustment(self) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        return self._adjustment

    def _in_force(self) -> ClassWeights:
        return ClassWeights()
