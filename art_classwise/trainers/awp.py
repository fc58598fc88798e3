"""Adversarial weight perturbation, as ART's trainer of that name is called."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_classwise import losses
from art_classwise.errors import unknown
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._checks import check_beta
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerAWPPyTorch"]


class AdversarialTrainerAWPPyTorch(SearchTrainer):
    """Standard adversarial training or TRADES with adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884).

    For calls written for ``art.defences.trainer.AdversarialTrainerAWPPyTorch``, with its arguments in its order. It is
    :class:`art_classwise.AdversarialTrainerStandardPyTorch` or :class:`art_classwise.AdversarialTrainerTRADESPyTorch`
    with ``awp_gamma`` and ``awp_warmup``, which any trainer takes.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        proxy_classifier: Has no meaning: the weights of the classifier itself are perturbed, and put back.
        attack: An evasion attack of ART on the classifier; the trainer's own, if absent.
        mode: ``"PGD"``, cross-entropy under attack, or ``"TRADES"``.
        gamma: Size of the perturbation, relative to the weights.
        beta: Weight of TRADES' KL term, 0 or above.
        warmup: Epochs without the perturbation.
        **options: As for :class:`SearchTrainer`: ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ...

    Raises:
        InputError: ``mode``, ``gamma``, ``beta`` or ``warmup`` is out of range; and as :class:`SearchTrainer`.
    """

    def __init__(
        self,
        classifier: Any,
        proxy_classifier: Any = None,
        attack: Any = None,
        mode: str = "PGD",
        gamma: float = 0.01,
        beta: float = 6.0,
        warmup: int = 0,
        **options: Any,
    ) -> None:
        if str(mode).upper() not in ("PGD", "TRADES"):
            raise unknown("mode", mode, ("PGD", "TRADES"))
        super().__init__(classifier, attack=attack, awp_gamma=gamma, awp_warmup=warmup, **options)
        self.mode, self.beta = str(mode).upper(), check_beta(beta)
        if self.mode == "TRADES":
            self._start, self._ascended = "gaussian", "kl"

    def _objective(self, adversary: Adversary) -> Objective:
        trades = self.mode == "TRADES"

        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            if not trades or logits is None:
                return losses.standard(logits_adv, y, self.label_smoothing), None
            return losses.trades_terms(logits, logits_adv, y, self.label_smoothing)

        beta = self.beta if trades else None
        return Objective(terms, beta, uses_clean=trades, adversary=adversary, two_passes=trades and self.two_passes)

    def _parameters(self) -> dict[str, Any]:
        return {"mode": self.mode, **({"beta": self.beta} if self.mode == "TRADES" else {})}
