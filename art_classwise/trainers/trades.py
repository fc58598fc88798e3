"""TRADES: a trade-off between accuracy and robustness."""

from __future__ import annotations

from typing import Any, overload

from art.attacks.attack import EvasionAttack
from torch import Tensor

from art_classwise import losses
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._checks import check_beta, split_attack
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerTRADESPyTorch"]


class AdversarialTrainerTRADESPyTorch(SearchTrainer):
    """TRADES: cross-entropy on clean inputs, and closeness of predictions (Zhang et al. 2019, arXiv 1901.08573, eq. 5).

    Descends :func:`art_classwise.losses.trades`; the attack ascends the KL divergence from the clean prediction, in
    eval mode, from x + 0.001 N(0, 1) (their algorithm 1). Clean and attacked images are classified in one pass. The
    authors' code classifies clean, attacked, then clean images again, for the KL term, in train mode, so that batch
    norm's running statistics lean to clean images by 2 to 1: that is ``passes="cac"``. The code for TRADES with AWP
    takes attacked images, then clean ones twice: ``passes="acc"``. In L2 their steps have a length of 2 eps / number of
    steps.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's 1 / lambda, which is 6 for CIFAR-10 and 1 for MNIST. As in
            ART's trainer an attack may stand before it: ``(classifier, attack, beta)``.
        **options: As for :class:`SearchTrainer`: ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ...

    Raises:
        InputError: ``beta`` is out of range; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _ascended = "kl"

    @overload
    def __init__(self, classifier: Any, beta: float = 6.0, **options: Any) -> None: ...

    @overload
    def __init__(self, classifier: Any, attack: EvasionAttack, beta: float = 6.0, **options: Any) -> None: ...

    def __init__(self, classifier: Any, *given: Any, beta: float = 6.0, **options: Any) -> None:
        beta, options = split_attack(given, beta, options)
        super().__init__(classifier, **options)
        self.beta = check_beta(beta)

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            assert logits is not None
            return losses.trades_terms(logits, logits_adv, y, self.label_smoothing)

        return Objective(terms, self.beta, uses_clean=True, adversary=adversary, two_passes=self.two_passes)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta}
