"""Balance adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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
    before it. The history's ``robust`` is that of the former. The released code trains a ResNet-18 with TRADES'
    recipe for 200 epochs, with decays of the learning rate at 75, 90 and 100.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 6.
        exact: Follow the released code to the letter. It searches twice, from starts drawn independently, for the two
            sides. Its "first misclassified" iterate is one step beyond that if it is misclassified still (``tau = 1``),
            else the next that is misclassified: the second wrong one. The iterate of the last step isn't looked at:
            it stands in for what wasn't found before, on either side. Where the start is misclassified, it stands for
            the last correct iterate; without ``exact``, the clean image does. Last correct, first misclassified and
            clean images are classified in this order, ``passes="lfc"``, unless ``passes`` says another.
        **options: As for :class:`SearchTrainer`: ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ... ``attack`` has
            no meaning, since others' attacks don't tell their iterates.

    Raises:
        InputError: ``beta`` or ``exact`` is out of range, or there is an ``attack``; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _ascended = "kl"
    _search = BoundarySearch
    _views = "cfl"
    _added: ClassVar[Mapping[str, Any]] = {"exact": False}

    def __init__(self, classifier: Any, beta: float = 6.0, *, exact: bool = False, **options: Any) -> None:
        if options.get("attack") is not None:
            raise InputError("BAT needs the iterates of its own attack: leave `attack` out.")
        if not isinstance(exact, bool):
            raise InputError(f"`exact` must be True or False, but got {exact!r}.")
        if exact and options.get("passes") is None:
            options["passes"] = "lfc"
        super().__init__(classifier, **options)
        self.beta, self.exact = check_beta(beta), exact

    def _adversary(self, **options: Any) -> Adversary:
        return super()._adversary(**options, **({"exact": True} if options and self.exact else {}))

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            assert logits is not None
            first, last = logits_adv.chunk(2)
            return losses.bat_terms(logits, first, last, y, self.label_smoothing)

        return Objective(terms, self.beta, uses_clean=True, adversary=adversary, n_views=2, two_passes=self.two_passes)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta, "exact": self.exact}
