"""What training descends, and by which forward passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers.policies import ClassWeights

__all__ = ["Objective", "PassOrder", "Terms", "check_passes", "natural_terms"]


Terms = Callable[[Tensor | None, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Logits or None, logits under attack, labels -> the two terms of a loss, (n,) each, of which one may be missing."""


def natural_terms(label_smoothing: float = 0.0) -> Terms:
    """Return the terms of natural training: cross-entropy on clean images alone."""

    def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
        assert logits is not None
        return losses.cross_entropy(logits, y, label_smoothing), None

    return terms


class PassOrder(NamedTuple):
    """The forward passes of a step in train mode, by the letters of the views.

    Of a view that is classified again, or that the objective doesn't need, batch norm alone takes notice.

    Attributes:
        before: Those before the optimizer's step.
        after: Those after it.
    """

    before: str
    after: str = ""


def check_passes(passes: Any, views: str) -> PassOrder | None:
    """Return the order of the forward passes if it is one.

    Args:
        passes: Letters of the views, before and after the step, which is ``|``; or None.
        views: The letters that there are: c, the clean images, and those under attack, which the step needs.

    Raises:
        InputError: It isn't.
    """
    if passes is None:
        return None
    before, _, after = str(passes).partition("|")
    if not isinstance(passes, str) or set(before + after) - set(views) or (set(views) - {"c"}) - set(before):
        attacked = " and ".join(f'"{view}"' for view in views if view != "c") or '"c"'
        raise InputError(
            f'`passes` must be letters of "{views}" and at most one "|", the step, with {attacked} before it, such as '
            f'"{views}" or "{views}|c", but got {passes!r}.'
        )
    return PassOrder(before, after)


@dataclass(frozen=True)
class Objective:
    """What training descends: the first term plus beta times the second.

    Attributes:
        terms: The two terms.
        beta: Factor of the second; None where there is none.
        uses_clean: Whether the terms need the clean logits.
        adversary: The attack; None for natural training, whose logits "under attack" are the clean ones.
        n_views: How many adversarial inputs the attack returns for an image; those of the first view come first.
        two_passes: Whether clean and adversarial images are forward passes of their own, so that batch norm sees two
            batches, as in most published implementations; else one pass, of all.
        views: A letter for each view: c, the clean images, and those under attack, in the order in which the attack
            returns them.
        passes: The forward passes one by one, by these letters: see :class:`PassOrder`. None leaves it to
            ``two_passes``.
    """

    terms: Terms
    beta: float | None
    uses_clean: bool
    adversary: Adversary | None
    n_views: int = 1
    two_passes: bool = False
    views: str = "ca"
    passes: PassOrder | None = None

    def values(self, logits: Tensor | None, logits_adv: Tensor, y: Tensor, weights: ClassWeights) -> Tensor:
        """Return the objective of each example (n,), class weights included."""
        first, second = self.terms(logits, logits_adv, y)
        if weights.first is not None:
            first = weights.first[y].to(first.dtype) * first
        if second is None:
            return first
        if weights.second is not None:
            second = weights.second[y].to(second.dtype) * second
        return first + (self.beta or 0.0) * second
