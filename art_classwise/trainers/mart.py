"""Misclassification-aware adversarial training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._loop import Objective

__all__ = ["AdversarialTrainerMARTPyTorch"]


class AdversarialTrainerMARTPyTorch(SearchTrainer):
    """MART: training that weighs misclassified examples more (Wang et al., ICLR 2020).

    Descends :func:`art_classwise.losses.mart`; the attack ascends cross-entropy in eval mode from
    x + 0.001 N(0, 1), as the published implementation does.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 5 for ResNet-18 and 6 for WRN-34-10.
        norm: ``np.inf`` or 2.
        eps: Radius of the training attack, in the units of x.
        eps_step: Length of its steps; ``eps / 4`` if absent.
        max_iter: Number of its steps.
        seed: Of the order of examples, the random starts and dropout.
        verbose: Show a progress bar.

    Raises:
        InputError: The classifier isn't a PyTorch classifier or has no optimizer, or a parameter is out of range.
    """

    _start = "gaussian"

    def __init__(
        self,
        classifier: Any,
        beta: float = 5.0,
        norm: float | str = np.inf,
        eps: float = 8 / 255,
        eps_step: float | None = None,
        max_iter: int = 10,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(classifier, norm, eps, eps_step, max_iter, seed, verbose)
        if not 0 <= beta < math.inf:
            raise InputError(f"`beta` must be a finite number of at least 0, but got {beta!r}.")
        self.beta = beta

    def _objective(self) -> Objective:
        def loss(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> Tensor:
            assert logits is not None
            return losses.mart(logits, logits_adv, y, self.beta)

        return Objective(loss, uses_clean=True, inner=self.inner)
