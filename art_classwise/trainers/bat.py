"""Balance adversarial training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError
from art_classwise.trainers._adversary import Adversary, BoundarySearch
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._checks import check_beta
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerBATPyTorch"]


class AdversarialTrainerBATPyTorch(SearchTrainer):
    """BAT: balanced training on both sides of the boundary (Sun et al. 2023, arXiv 2209.07534).

    Descends :func:`art_classwise.losses.bat`. The attack ascends the KL divergence from the clean prediction, in eval
    mode, from x + 0.001 N(0, 1); of its iterates training takes the first misclassified one and the last correct one
    before it. The history's ``robust`` is that of the former. The paper's recipe is TRADES'.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 6.
        **options: As for :class:`SearchTrainer`: ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ... ``attack`` has
            no meaning, since others' attacks don't tell their iterates.

    Raises:
        InputError: ``beta`` is out of range, or there is an ``attack``; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _ascended = "kl"
    _search = BoundarySearch

    def __init__(self, classifier: Any, beta: float = 6.0, **options: Any) -> None:
        if options.get("attack") is not None:
            raise InputError("BAT needs the iterates of its own attack: leave `attack` out.")
        super().__init__(classifier, **options)
        self.beta = check_beta(beta)

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            assert logits is not None
            first, last = logits_adv.chunk(2)
            return losses.bat_terms(logits, first, last, y, self.label_smoothing)

        return Objective(terms, self.beta, uses_clean=True, adversary=adversary, n_views=2, two_passes=self.two_passes)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta}
