"""Misclassification-aware adversarial training."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError, check_flag, unknown
from art_classwise.trainers._adversary import Adversary, Attacked
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._checks import check_beta
from art_classwise.trainers._objective import Objective

__all__ = ["AdversarialTrainerMARTPyTorch"]


class AdversarialTrainerMARTPyTorch(SearchTrainer):
    """MART: training that weighs misclassified examples more (Wang et al., ICLR 2020).

    Descends :func:`art_classwise.losses.mart`; the attack ascends cross-entropy in eval mode from
    x + 0.001 N(0, 1), as the published implementation does. That classifies clean images first, then attacked ones,
    in two passes; here it is one pass, unless ``exact`` or ``two_passes`` is set. The switches are those of the paper's
    ablations.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 5 for ResNet-18 and 6 for WRN-34-10.
        boosted: Boosted cross-entropy as the first term; plain cross-entropy otherwise.
        on: Whether the first term is taken on ``"adversarial"`` or on ``"clean"`` images.
        kl: Whether there is a KL term.
        weighted: Whether the KL term is weighted by 1 - p_y, which is what makes it aware of misclassification.
        attacked: Which training examples are attacked: ``"all"``, or those that the network gets right without
            the attack (``"correct"``), or wrong (``"misclassified"``); the others stay as they are.
        exact: Follow the published implementation to the letter: its two forward passes (as ``two_passes``) and
            its constants. It computed in float32 throughout: that is ``precision="fp32"``. Its attack may begin a
            little outside the range of images; here it begins inside.
        **options: As for :class:`SearchTrainer`: ``eps``, ``max_iter``, ``crop_padding``, ``seed``, ...

    Raises:
        InputError: One of these is out of range; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"

    def __init__(
        self,
        classifier: Any,
        beta: float = 5.0,
        *,
        boosted: bool = True,
        on: Literal["adversarial", "clean"] = "adversarial",
        kl: bool = True,
        weighted: bool = True,
        attacked: Attacked = "all",
        exact: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(classifier, **options)
        self.beta = check_beta(beta)
        self.boosted, self.on, self.kl, self.weighted, self.exact = boosted, on, kl, weighted, exact
        self.attacked: Attacked = attacked
        for name in ("boosted", "kl", "weighted", "exact"):
            setattr(self, name, check_flag(name, getattr(self, name)))
        if on not in ("adversarial", "clean"):
            raise unknown("kind of images for the first term, `on`,", on, ("adversarial", "clean"))
        if attacked not in get_args(Attacked):
            raise unknown("choice of `attacked` examples", attacked, get_args(Attacked))
        if self.attack is not None and attacked != "all":
            raise InputError("`attacked` chooses for the built-in attack, and can't be combined with `attack`.")

    @property
    def _attacked(self) -> Attacked:
        return self.attacked

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            return losses.mart_terms(
                logits,
                logits_adv,
                y,
                boosted=self.boosted,
                on=self.on,
                kl=self.kl,
                weighted=self.weighted,
                exact=self.exact,
                label_smoothing=self.label_smoothing,
            )

        return Objective(
            terms,
            self.beta if self.kl else None,
            uses_clean=self.kl or self.on == "clean",
            adversary=adversary,
            two_passes=self.two_passes or self.exact,
        )

    def _parameters(self) -> dict[str, Any]:
        names = ("beta", "boosted", "on", "kl", "weighted", "attacked", "exact")
        return {name: getattr(self, name) for name in names}
