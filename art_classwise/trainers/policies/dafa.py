"""DAFA: distance-aware fair adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_number, check_whole
from art_classwise.trainers.policies.policy import (
    Array,
    ClassBudgets,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
)

__all__ = ["DAFA", "dafa_weights"]


def dafa_weights(probabilities: Array, y: Array, lamb: float = 1.0) -> Any:
    """Return DAFA's class weights from predictions under attack (Lee et al. 2024, eq. 5).

    With p_i(j) the mean probability of class j over the examples of class i, each pair of classes shifts weight from
    the more robust one to the other, the more the closer they are: for p_i(i) < p_j(j), class i gains
    lamb p_i(j) p_j(j), which class j loses. Their released code computes the same function; earlier versions of it
    took lamb p_j(i) p_i(i) from class j, so that the mean weight wasn't 1.

    Args:
        probabilities: (n, C) softmax under attack.
        y: (n,) labels.
        lamb: How much is shifted.

    Returns:
        (C,) float64, with mean 1, as ``probabilities`` were given. A class without examples keeps 1.

    Raises:
        InputError: The shapes don't fit, or a label is no class.

    Example:
        >>> dafa_weights([[0.5, 0.5], [0.2, 0.8]], [0, 1]).round(3)
        array([1.4, 0.6])
    """
    p = as_float64(probabilities, "probabilities")
    if p.dim() != 2:
        raise InputError(f"Probabilities must have shape (n, C), but have {tuple(p.shape)}.")
    n, n_classes = p.shape
    labels = check_labels(np.asarray(torch.as_tensor(y).cpu()), n, n_classes)
    means = ClassMeans(n_classes, n_classes, p.device)
    means.add(torch.from_numpy(labels).to(p.device), p)
    return as_given(_weights(means.take(), lamb), probabilities)


def _weights(similarity: Tensor, lamb: float) -> Tensor:
    """Return the weights (C,) of mean probabilities (C, C), a row per true class, NaN where it has no example."""
    robust = similarity.diagonal()
    gain = torch.where(robust[:, None] < robust[None, :], similarity * robust[None, :], 0.0).nan_to_num(0.0)
    return 1 + lamb * (gain.sum(1) - gain.sum(0))


@dataclass
class DAFA(ClassPolicy):
    """DAFA: once, after a warm-up, classes get weights and radii by how close they are to which others.

    Lee, Lee, Jang, Park, Bae, Yoon, "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024 (arXiv 2401.12532).
    After ``warmup`` epochs :func:`dafa_weights` of the training examples' predictions in the last of them give W; then
    the first term is weighted by W_c (the KL term isn't), and class budgets and steps are W_c times as large.

    The released code trains by TRADES, ``passes="ac"``, with Nesterov momentum, weight decay 5e-4 and decays of the
    learning rate at 100 and 105 of 110 epochs; the epoch taken is chosen by its number. On standard adversarial
    training it starts its attack at x + 0.001 N(0, 1), and after each step within the class's radius takes one more
    along the same sign, of the plain length, and projects to the plain radius, which undoes budgets above it. Here the
    start is uniform in the class's ball, and there is no second step.

    Args:
        lamb: How much weight is shifted: the paper's 1 for CIFAR-10, 1.5 for CIFAR-100 and STL-10.
        warmup: Epochs before: 70 of the paper's 110.

    Raises:
        InputError: A number is out of range.
    """

    lamb: float = 1.0
    warmup: int = 70

    def _check(self) -> None:
        check_number("lamb", self.lamb, 0, 100)
        check_whole("warmup", self.warmup, 1)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        if context.nb_epochs <= self.warmup:
            raise InputError(
                f"DAFA begins after {self.warmup} epochs, but there are {context.nb_epochs}: train for longer, or take "
                "a smaller `warmup`."
            )
        self._means = ClassMeans(context.n_classes, context.n_classes, context.device)
        self._epochs_done = 0
        self._state = {"weights": self._ones(), "done": self._zeros(1)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See :class:`ClassPolicy`."""
        super().load(state)
        self._epochs_done = int(self._state["done"])

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return True

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        return ClassBudgets(self._state["weights"], self._state["weights"])

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        if self._epochs_done == self.warmup - 1:
            self._means.add(y, logits_adv.softmax(1))
        return self._in_force()

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        self._epochs_done += 1
        self._state["done"] += 1
        if self._epochs_done == self.warmup:
            self._state["weights"] = _weights(self._means.take(), self.lamb)

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["weights"], None)
