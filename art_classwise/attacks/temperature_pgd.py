"""Temperature-PGD: PGD on sharpened confidences."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from art_classwise import losses
from art_classwise.attacks._loss_attack import LossAttack
from art_classwise.errors import check_positive

__all__ = ["TemperaturePGD"]


class TemperaturePGD(LossAttack):
    """PGD on sharpened confidences, softmax(logits / T) (Tian et al. 2021, arXiv 2105.14240).

    The sign (or normalised) step removes the factor 1/T from the gradient, so the temperature sets the
    relative weights of the wrong classes only: ``inverse_temperature=1`` is PGD (Madry et al. 2018),
    ``float("inf")`` follows the margin (Carlini and Wagner's loss), values near 0 the mean of the wrong
    classes. It ascends :func:`art_classwise.losses.soft_margin`, which has the direction of the temperature
    cross-entropy without its float32 underflow on confident networks.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        inverse_temperature: 1/T, above 0.
        **options: As for :class:`art_classwise.PGD`: ``norm``, ``eps``, ``eps_step``, ``max_iter``,
            ``num_random_init``, ``targeted``, ``early_stop``, ``batch_size``, ``seed``, ... There is no ``loss``.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    attack_params: ClassVar[list[str]] = [*LossAttack.attack_params, "inverse_temperature"]

    def __init__(self, estimator: Any, *, inverse_temperature: float = 5.0, **options: Any) -> None:
        self.inverse_temperature = inverse_temperature
        super().__init__(estimator, **options)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return losses.soft_margin(logits, y, self.inverse_temperature)

    def _check_params(self) -> None:
        super()._check_params()
        check_positive("inverse_temperature", self.inverse_temperature, finite=False)
