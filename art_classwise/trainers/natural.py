"""Natural training: without any attack."""

from __future__ import annotations

from typing import Any

from art_classwise.errors import InputError
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._objective import Objective, natural_terms

__all__ = ["NaturalTrainerPyTorch"]


class NaturalTrainerPyTorch(SearchTrainer):
    """Natural training: cross-entropy on clean images, as a control for what adversarial training changes.

    Nothing is attacked while training, so the history's ``robust`` is NaN; validation is attacked as for the others.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        **options: As for :class:`SearchTrainer`. Those of the attack are for validation only.

    Raises:
        InputError: The class policy sets class budgets; and as :class:`SearchTrainer`.
    """

    _views = "c"

    def __init__(self, classifier: Any, **options: Any) -> None:
        if getattr(options.get("class_policy"), "sets_budgets", False):
            raise InputError(
                "Natural training attacks nothing, so that class budgets have no meaning: choose a policy that sets "
                "weights alone, such as WAT."
            )
        if options.get("attack_mode", "eval") != "eval":
            raise InputError("Natural training attacks nothing, so that `attack_mode` has no meaning: leave it out.")
        super().__init__(classifier, **options)

    def _objective(self, adversary: Adversary) -> Objective:
        return Objective(natural_terms(self.label_smoothing), None, uses_clean=True, adversary=None)

    def _parameters(self) -> dict[str, Any]:
        return {}
