"""Confusional spectral regularisation: errors weighted by what the robust confusion matrix owes its norm to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise import losses
from art_classwise.errors import check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_confusion,
    as_given,
    one_hot,
)

__all__ = ["Spectral", "confusional_norm", "confusional_weights"]


def confusional_norm(confusion: Array) -> float:
    """Return the spectral norm of a robust confusion matrix without its diagonal (Jin et al. 2025, section 4).

    It bounds the worst class's error in their theorem 4.1.

    Args:
        confusion: (C, C), rows true classes, columns predictions: shares of the true class, or numbers, as
            :meth:`art_classwise.AuditResult.confusion` has them. The row of a class without examples, NaN, is no error.

    Raises:
        InputError: It isn't square, or has other entries than finite ones of at least 0.

    Example:
        >>> confusional_norm([[0.5, 0.5], [0.2, 0.8]])
        0.5
    """
    return float(torch.linalg.matrix_norm(_errors(confusion), 2))


def confusional_weights(confusion: Array) -> Any:
    """Return the weight of a class's examples by what they are predicted as (Jin et al. 2025, eq. 11, as released).

    The derivative of the spectral norm by an entry (i, j) is u_i v_j, of the first singular vectors; it is scaled to
    lie from 0.01 to 2.01.

    Args:
        confusion: (C, C), as for :func:`confusional_norm`; its diagonal doesn't count.

    Returns:
        (C, C), as ``confusion`` was given; 0 where there is no error.

    Raises:
        InputError: As :func:`confusional_norm`.

    Example:
        >>> confusional_weights([[0.5, 0.5], [0.2, 0.8]]).round(2)
        array([[0.01, 2.01],
               [0.01, 0.01]])
    """
    errors = _errors(confusion)
    u, _, v = torch.linalg.svd(errors)
    outer = torch.outer(u[:, 0], v[0])
    low, high = outer.amin(), outer.amax()
    scaled = 2 * (outer - low) / (high - low).clamp_min(torch.finfo(outer.dtype).tiny) + 0.01
    return as_given(torch.where(errors.amax() > 0, scaled, 0.0), confusion)


def _errors(confusion: Array) -> Tensor:
    matrix = as_confusion(confusion)
    return matrix - torch.diag(matrix.diagonal())


@dataclass
class Spectral(ClassPolicy):
    """Confusional spectral regularisation: a further cross-entropy that lowers the confusion matrix's spectral norm.

    Jin, Wu, Liu, Huang, Mu, "Enhancing Robust Fairness via Confusional Spectral Regularization", ICLR 2025 (arXiv
    2501.13273). The objective is (1 - share) times its first term, the second term, and share times the cross-entropy
    under attack, each example weighted by :func:`confusional_weights` of its class and its prediction there. The
    confusion matrix is that of the training examples under the training attack, in the epoch before, so that the first
    epoch has no such term; the released code attacks all of them once more before each epoch, in eval mode, and counts
    examples in place of shares. It fine-tunes a robust network by TRADES for 2 epochs, with learning rate .001 and
    weight decay 5e-4. The history's ``spectral_norm`` is that of the matrix in force, NaN in the first epoch.

    Args:
        share: Of the term in the objective, from 0 to 1.
        margin: By how much the own class's logit is lowered, relative to itself, before errors are counted.

    Raises:
        InputError: A number is out of range.
    """

    share: float = 0.3
    margin: float = 0.1

    def _check(self) -> None:
        check_number("share", self.share, 0, 1)
        check_number("margin", self.margin, 0, 1, below=True)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        n = context.n_classes
        self._means = ClassMeans(n, n, context.device)
        self._state = {
            "confusion": self._zeros(n, n) + torch.nan,
            "pairs": self._zeros(n, n),
            "first": self._ones(),
            "norm": self._zeros(1) + torch.nan,
        }

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        own = one_hot(y, logits_adv.shape[1])
        predicted = torch.where(own, (1 - self.margin) * logits_adv, logits_adv).argmax(1)
        self._means.add(y, one_hot(predicted, logits_adv.shape[1]))
        return self._in_force()

    def term(self, y: Tensor, logits_adv: Tensor) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        weights = self._state["pairs"][y, logits_adv.detach().argmax(1)].to(logits_adv.dtype)
        return self.share * weights * losses.cross_entropy(logits_adv, y)

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        seen, state = self._means.take(), self._state
        state["confusion"] = torch.where(seen.isnan(), state["confusion"], seen)
        confusion = state["confusion"].nan_to_num(0.0)
        state["pairs"] = confusional_weights(confusion)
        state["norm"] = torch.linalg.matrix_norm(_errors(confusion), 2)[None]
        state["first"] = torch.where(state["norm"] > 0, 1.0 - self.share, 1.0).expand_as(state["first"]).clone()

    def columns(self) -> dict[str, float]:
        """See :class:`ClassPolicy`."""
        return super().columns() | {"spectral_norm": float(self._state["norm"])}

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["first"], None)
