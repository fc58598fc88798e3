"""Standard adversarial training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_classwise import losses
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerStandardPyTorch"]


class AdversarialTrainerStandardPyTorch(SearchTrainer):
    """Standard adversarial training: cross-entropy on adversarial inputs (Madry et al. 2018, eq. 2.1).

    The attack ascends cross-entropy from a uniform start in the ball, in eval mode. Clean images aren't classified. The
    authors' code of AWP and of CFA attacks in train mode and classifies clean images after each step, for its log, by
    which batch norm's running statistics take them in: ``attack_mode="train", passes="a|c"``. Parameters are
    those of :class:`SearchTrainer`: ``classifier``, ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ...

    Raises:
        InputError: As :class:`SearchTrainer`.
    """

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return losses.standard(logits_adv, y, self.label_smoothing), None

        return Objective(terms, None, uses_clean=False, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {}
