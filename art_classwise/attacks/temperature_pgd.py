"""Temperature-PGD: PGD on sharpened confidences."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from art_classwise import losses
from art_classwise.attacks._budgets import Budget
from art_classwise.attacks._loss_attack import LossAttack
from art_classwise.attacks.fast_copy import Precision
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
        norm: ``np.inf``, 2 or 1.
        eps: Radius, in the units of x: a number; an array that broadcasts to x (for L2 and L1 one number per
            example); or a dict with a number for each class, by true label.
        eps_step: Length of a step, likewise; ``eps / 4`` (2/255 at 8/255) if absent.
        max_iter: Number of steps.
        inverse_temperature: 1/T, above 0.
        num_random_init: Number of random starts in the ball; 0 starts at x itself. Of several results the most
            wrong is kept.
        targeted: Whether ``y`` names the classes to move into.
        momentum: How much of the past steps' direction is kept (Dong et al. 2018); 0 is none.
        early_stop: Let an example leave once it succeeds: quicker, for verdicts; not for training or transfer.
        batch_size: Examples attacked at once.
        seed: Of the random starts.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 for networks of a million weights or more on hardware
            that multiplies it. What counts as success is decided in float32 always.
        compile: Compile the network with ``torch.compile``, at each call: for long attacks.
        summary_writer: As for all attacks of ART: True, a folder or an ART ``SummaryWriter``; needs tensorboardX.
        verbose: Show a progress bar.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    kind: ClassVar[str] = "TemperaturePGD"
    attack_params: ClassVar[list[str]] = [*LossAttack.attack_params, "inverse_temperature"]

    def __init__(
        self,
        estimator: Any,
        norm: float | str = np.inf,
        eps: Budget = 8 / 255,
        eps_step: Budget | None = None,
        max_iter: int = 20,
        inverse_temperature: float = 5.0,
        num_random_init: int = 1,
        targeted: bool = False,
        momentum: float = 0.0,
        early_stop: bool = False,
        batch_size: int = 128,
        seed: int = 0,
        precision: Precision = "auto",
        compile: bool = False,
        summary_writer: Any = False,
        verbose: bool = True,
    ) -> None:
        self.inverse_temperature = inverse_temperature
        super().__init__(
            estimator,
            norm=norm,
            eps=eps,
            eps_step=eps_step,
            max_iter=max_iter,
            num_random_init=num_random_init,
            targeted=targeted,
            momentum=momentum,
            early_stop=early_stop,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            compile=compile,
            summary_writer=summary_writer,
            verbose=verbose,
        )

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return losses.soft_margin(logits, y, self.inverse_temperature)

    def _check_params(self) -> None:
        super()._check_params()
        check_positive("inverse_temperature", self.inverse_temperature, finite=False)
