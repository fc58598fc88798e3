"""Temperature-PGD, and with it PGD, FGSM and margin PGD, which are its special cases."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from art_classwise import losses
from art_classwise.attacks._base import SearchAttack
from art_classwise.errors import check_positive

__all__ = ["TemperaturePGD"]


class TemperaturePGD(SearchAttack):
    """PGD on sharpened confidences, softmax(logits / T) (Tian et al. 2021, arXiv 2105.14240).

    The sign (or normalised) step removes the factor 1/T from the gradient, so the temperature sets the
    relative weights of the wrong classes only: ``inverse_temperature=1`` is PGD (Madry et al. 2018),
    ``float("inf")`` follows the margin (Carlini and Wagner's loss), values near 0 the mean of the wrong
    classes. It ascends :func:`art_classwise.losses.soft_margin`, which has the direction of the temperature
    cross-entropy without its float32 underflow on confident networks.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        norm: ``np.inf`` or 2.
        eps: Radius, in the units of x.
        eps_step: Length of a step; ``eps / 4`` (2/255 at 8/255) if absent.
        max_iter: Number of steps.
        inverse_temperature: 1/T, above 0.
        num_random_init: Number of random starts in the ball; 0 starts at x itself.
        targeted: Whether ``y`` names the classes to move into.
        batch_size: Examples attacked at once.
        seed: Of the random starts.
        verbose: Show a progress bar.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    attack_params: ClassVar[list[str]] = [*SearchAttack.attack_params, "inverse_temperature"]

    def __init__(
        self,
        estimator: Any,
        norm: float | str = np.inf,
        eps: float = 8 / 255,
        eps_step: float | None = None,
        max_iter: int = 20,
        inverse_temperature: float = 5.0,
        num_random_init: int = 1,
        targeted: bool = False,
        batch_size: int = 128,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(
            estimator,
            norm=norm,
            eps=eps,
            eps_step=eps_step,
            max_iter=max_iter,
            num_random_init=num_random_init,
            targeted=targeted,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
        self.inverse_temperature = inverse_temperature
        self._check_params()

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return losses.soft_margin(logits, y, self.inverse_temperature)

    def _check_params(self) -> None:
        super()._check_params()
        check_positive("inverse_temperature", self.inverse_temperature, finite=False)
