"""Standard adversarial training."""

from __future__ import annotations

from torch import Tensor

from art_classwise import losses
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._loop import Objective

__all__ = ["AdversarialTrainerStandardPyTorch"]


class AdversarialTrainerStandardPyTorch(SearchTrainer):
    """Standard adversarial training: cross-entropy on adversarial inputs (Madry et al. 2018, eq. 2.1).

    The attack ascends cross-entropy from a uniform start in the ball.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        norm: ``np.inf`` or 2.
        eps: Radius of the training attack, in the units of x.
        eps_step: Length of its steps; ``eps / 4`` if absent.
        max_iter: Number of its steps.
        seed: Of the order of examples, the random starts and dropout.
        verbose: Show a progress bar.

    Raises:
        InputError: The classifier isn't a PyTorch classifier or has no optimizer, or a parameter is out of range.
    """

    def _objective(self) -> Objective:
        def loss(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> Tensor:
            return losses.standard(logits_adv, y)

        return Objective(loss, uses_clean=False, inner=self.inner)
