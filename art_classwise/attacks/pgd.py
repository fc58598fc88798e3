"""Projected gradient descent on any loss: PGD, FGSM, margin PGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from art_classwise import losses
from art_classwise.attacks._budgets import Budget
from art_classwise.attacks._fast import Precision
from art_classwise.attacks._loss_attack import LossAttack
from art_classwise.attacks._problem import Problem
from art_classwise.errors import InputError, unknown

__all__ = ["LOSSES", "PGD"]

# The soft margin at temperature 1 has the cross-entropy's direction, and its gradient doesn't underflow.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.soft_margin,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "kl": lambda logits, clean: losses.kl(clean, logits),
}


class PGD(LossAttack):
    """Projected gradient descent within a ball (Madry et al. 2018, arXiv 1706.06083).

    With ``max_iter=1``, ``eps_step=eps`` and ``num_random_init=0`` it is FGSM (Goodfellow et al. 2015).

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        norm: ``np.inf``, 2 or 1.
        eps: Radius, in the units of x: a number; an array that broadcasts to x (for L2 and L1 one number per
            example); or a dict with a number for each class, by true label.
        eps_step: Length of a step, likewise; ``eps / 4`` (2/255 at 8/255) if absent.
        max_iter: Number of steps.
        loss: What to ascend: ``"cross_entropy"``; ``"margin"``, Carlini and Wagner's loss (CW-inf by PGD); ``"dlr"``,
            the difference of logits ratio (Croce and Hein 2020); ``"kl"``, the divergence from the prediction on x
            (TRADES' inner search), whatever the labels. A targeted attack descends the loss of its target.
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

    attack_params: ClassVar[list[str]] = [*LossAttack.attack_params, "loss"]

    def __init__(
        self,
        estimator: Any,
        norm: float | str = np.inf,
        eps: Budget = 8 / 255,
        eps_step: Budget | None = None,
        max_iter: int = 20,
        loss: str = "cross_entropy",
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
        self.loss = loss
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
        return LOSSES[self.loss](logits, y)

    def _compared(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return problem.logits(x) if self.loss == "kl" else y

    def _check_params(self) -> None:
        super()._check_params()
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if self.loss == "dlr" and self.estimator.nb_classes < 3:
            raise InputError('The loss "dlr" compares three classes, and the model has two: take "margin".')
        if self.loss == "dlr" and self.targeted:
            raise InputError(
                'The loss "dlr" is constant where the target has the third largest logit; its targeted form names the '
                'label, too: take ClassWiseAttack(..., loss="dlr"), or "margin".'
            )
        if self.loss == "kl" and self.targeted:
            raise InputError('The loss "kl" moves away from the prediction on x: it has no targeted form.')
        if self.loss == "kl" and self.num_random_init == 0:
            raise InputError('The gradient of the loss "kl" is zero at x itself: set num_random_init to 1 or more.')
