"""Standard adversarial training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError, check_whole
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerStandardPyTorch"]


class AdversarialTrainerStandardPyTorch(SearchTrainer):
    """Standard adversarial training: cross-entropy on adversarial inputs (Madry et al. 2018, eq. 2.1).

    The attack ascends cross-entropy from a uniform start in the ball, in eval mode. Clean images aren't classified. The
    authors' code of AWP and of CFA attacks in train mode and classifies clean images after each step, for its log, by
    which batch norm's running statistics take them in: ``attack_mode="train", passes="a|c"``.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        nb_epochs: What ``fit`` and ``fit_generator`` take if they aren't told: 20 if absent. The first arguments are
            those of ART's ``AdversarialTrainerMadryPGD``, whose radii are for images in [0, 255].
        batch_size: Likewise; 128 if absent.
        eps: Radius of the training attack, as for :class:`SearchTrainer`.
        eps_step: Length of its steps, likewise.
        max_iter: Number of its steps, likewise.
        num_random_init: 1, or 0 to start at the image itself; more are for an ``attack``.
        **options: As for :class:`SearchTrainer`: ``crop_padding``, ``seed``, ...

    Raises:
        InputError: One of these is out of range; and as :class:`SearchTrainer`.
    """

    def __init__(
        self,
        classifier: Any,
        nb_epochs: int | None = None,
        batch_size: int | None = None,
        eps: float | None = None,
        eps_step: float | None = None,
        max_iter: int = 10,
        num_random_init: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(classifier, eps=eps, eps_step=eps_step, max_iter=max_iter, **options)
        if nb_epochs is not None:
            self.nb_epochs = check_whole("nb_epochs", nb_epochs, 1)
        if batch_size is not None:
            self.batch_size = check_whole("batch_size", batch_size, 1)
        self.num_random_init = check_whole("num_random_init", num_random_init, 0)
        if num_random_init > 1:
            raise InputError(
                f"The built-in attack starts once, but num_random_init is {num_random_init}: give an attack that "
                f"starts several times, attack=PGD(classifier, num_random_init={num_random_init}, ...)."
            )
        if self.num_random_init == 0:
            self._start = "clean"

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return losses.standard(logits_adv, y, self.label_smoothing), None

        return Objective(terms, None, uses_clean=False, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {} if self.num_random_init else {"num_random_init": 0}  # as checkpoints had it before there was a choice
